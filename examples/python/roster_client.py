"""Roster from Python. The URL's user must be a service that may read: ROSTER_SERVICES=guest=admin."""
import json, os, time, uuid, pika

url = pika.URLParameters(os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2f"))
namespace = os.environ.get("ROSTER_NAMESPACE", "roster")
channel = pika.BlockingConnection(url).channel()
replies, events = {}, []

def message_id():  # a UUIDv7 carries its own time
    now = f"{int(time.time() * 1000):012x}"
    return f"{now[:8]}-{now[8:]}-7{str(uuid.uuid4())[15:]}"

def wait_for(found):
    end = time.time() + 10
    while not found() and time.time() < end:
        channel.connection.process_data_events(time_limit=0.1)
    return found()

def ask(lane, kind, payload, id=None, tries=3):
    id, correlation, body = id or message_id(), str(uuid.uuid4()), json.dumps(payload)
    for _ in range(tries):  # no answer? The same message_id again: it is applied once, however often sent
        channel.basic_publish(f"{namespace}.{lane}", kind, body, pika.BasicProperties(
            type=kind, message_id=id, correlation_id=correlation, reply_to="amq.rabbitmq.reply-to",
            content_type="application/json", delivery_mode=2, user_id=url.credentials.username), mandatory=True)
        if wait_for(lambda: correlation in replies):
            return replies.pop(correlation)
    raise TimeoutError(f"no answer to {kind} {id}")

def on_reply(_channel, _method, properties, body):
    replies[properties.correlation_id] = json.loads(body) | {"replayed": properties.headers["replayed"]}

channel.basic_consume("amq.rabbitmq.reply-to", on_reply, auto_ack=True)  # before the first request
queue = channel.queue_declare("", exclusive=True).method.queue
channel.queue_bind(queue, f"{namespace}.events", "user.*.v1")
channel.basic_consume(queue, lambda _c, _m, _p, body: events.append(json.loads(body)), auto_ack=True)
channel.confirm_delivery()

id, email = message_id(), f"ada-{uuid.uuid4().hex}@example.com"
new = {"email": email, "name": "Ada", "password": "correct horse battery"}
user = ask("commands", "user.create.v1", new, id)["data"]
print("created", email, "version", user["version"])
refused = ask("commands", "user.create.v1", new)["error"]
print("refused", refused["code"], refused["details"][0]["reason"])
print("resent, replayed", ask("commands", "user.create.v1", new, id)["replayed"])
for name in ["Ada King", "Ada Lovelace"]:
    ask("commands", "user.update.v1", {"id": user["id"], "name": name})
print("queried", ask("queries", "user.get.v1", {"id": user["id"]})["data"]["name"])

wait_for(lambda: [event for event in events if event["subject"] == user["id"]][2:])
last = {}  # the last sequence seen, per user
for event in events:
    subject, sequence = event["subject"], int(event["sequence"])
    before = last.get(subject, sequence - 1)
    if sequence <= before or sequence == 2: continue  # a repeat; or as if the second had been lost
    if sequence > before + 1:
        listed = ask("queries", "event.list.v1", {"subject": subject, "after_sequence": before})["data"]
        print("gap after", before, "filled", [n for n in (int(e["sequence"]) for e in listed) if n < sequence])
    last[subject] = sequence
    print("event", sequence, event["type"])
