// Roster from Node. The URL's user must be a service that may read: ROSTER_SERVICES=guest=admin.
import { randomUUID } from 'node:crypto';
import amqplib from 'amqplib';

const { AMQP_URL: url = 'amqp://guest:guest@127.0.0.1:5672/%2f', ROSTER_NAMESPACE: namespace = 'roster' } = process.env;
const connection = await amqplib.connect(url);
const channel = await connection.createChannel();
const [waiting, events] = [new Map(), []];
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms).unref());

function messageId() { // a UUIDv7 carries its own time
  const time = Date.now().toString(16).padStart(12, '0');
  return `${time.slice(0, 8)}-${time.slice(8)}-7${randomUUID().slice(15)}`;
}

async function ask(lane, type, payload, id = messageId(), tries = 3) {
  const correlationId = randomUUID();
  const answer = new Promise((resolve) => waiting.set(correlationId, resolve));
  for (; tries > 0; tries--) { // no answer? The same message_id again: it is applied once
    channel.publish(`${namespace}.${lane}`, type, Buffer.from(JSON.stringify(payload)), {
      type, messageId: id, correlationId, replyTo: 'amq.rabbitmq.reply-to', contentType: 'application/json',
      persistent: true, userId: decodeURIComponent(new URL(url).username || 'guest'), mandatory: true });
    const reply = await Promise.race([answer, pause(10_000)]);
    if (reply) return reply;
  }
  throw new Error(`no answer to ${type} ${id}`);
}

channel.on('return', (message) => { throw new Error(`no queue takes ${message.properties.type}`); });
await channel.consume('amq.rabbitmq.reply-to', ({ content, properties: { correlationId, headers } }) =>
  waiting.get(correlationId)?.({ ...JSON.parse(content), replayed: headers.replayed }), { noAck: true });
const { queue } = await channel.assertQueue('', { exclusive: true });
await channel.bindQueue(queue, `${namespace}.events`, 'user.*.v1');
await channel.consume(queue, ({ content }) => events.push(JSON.parse(content)), { noAck: true });
const fresh = { email: `ada-${randomUUID()}@example.com`, name: 'Ada', password: 'correct horse battery' };
const id = messageId();
const { data: user } = await ask('commands', 'user.create.v1', fresh, id);
console.log('created', user.email, 'version', user.version);
const { error } = await ask('commands', 'user.create.v1', fresh);
console.log('refused', error.code, error.details[0].reason);
console.log('resent, replayed', (await ask('commands', 'user.create.v1', fresh, id)).replayed);
for (const name of ['Ada King', 'Ada Lovelace']) await ask('commands', 'user.update.v1', { id: user.id, name });
console.log('queried', (await ask('queries', 'user.get.v1', { id: user.id })).data.name);

const seen = () => events.filter(({ subject }) => subject === user.id).length;
for (let i = 0; i < 100 && seen() < 3; i++) await pause(100);
const last = new Map(); // the last sequence seen, per user
for (const { subject, sequence: text, type } of events) {
  const sequence = Number(text);
  const before = last.get(subject) ?? sequence - 1;
  if (sequence <= before || sequence === 2) continue; // a repeat; or as if the second had been lost
  if (sequence > before + 1) {
    const { data } = await ask('queries', 'event.list.v1', { subject, after_sequence: before });
    console.log('gap after', before, 'filled', data.map((e) => Number(e.sequence)).filter((n) => n < sequence));
  }
  last.set(subject, sequence);
  console.log('event', sequence, type);
}
await connection.close();
