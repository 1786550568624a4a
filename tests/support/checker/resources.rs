//! I6 to I9: what is left over, what was used, and what leaked.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use super::super::history::History;
use super::Verdict;

/// I6: queues and outbox are empty, and somebody listens.
pub fn drained(history: &History) -> Verdict {
    let mut verdict = Verdict::new("I6", "everything is drained and attended");
    if let Some(batches) = history.outbox {
        verdict.check(batches == 0, || format!("{batches} batches in the outbox"));
    }
    for queue in &history.queues {
        verdict.check(queue.ready == 0, || format!("{} messages in {}", queue.ready, queue.name));
        verdict.check(queue.consumers > 0, || format!("nobody consumes {}", queue.name));
    }
    let waiting = history.failed.iter().filter(|row| row.state == "waiting");
    for failed in waiting {
        verdict.check(false, || format!("{failed:?} still waits"));
    }
    verdict
}

/// I7: no sample is above the bounds.
pub fn bounded(history: &History) -> Verdict {
    let mut verdict = Verdict::new("I7", "memory and connections stay bounded");
    let Some(bounds) = history.bounds else {
        return verdict;
    };
    for sample in &history.samples {
        let holds = sample.resident_kib <= bounds.resident_kib && sample.connections <= bounds.connections;
        verdict.check(holds, || format!("{sample:?} is above {bounds:?}"));
    }
    verdict
}

/// I8: no transaction stands idle, no advisory lock outlives its worker.
pub fn nothing_left_open(history: &History) -> Verdict {
    let mut verdict = Verdict::new("I8", "no idle transaction, no lock left behind");
    if let Some(count) = history.idle_in_transaction {
        verdict.check(count == 0, || format!("{count} idle in transaction"));
    }
    if let Some(count) = history.locks_after_shutdown {
        verdict.check(count == 0, || format!("{count} advisory locks are held"));
    }
    verdict
}

/// I9: the planted secrets stand nowhere, neither as they are nor in hex nor in Base64.
pub fn no_secret_anywhere(history: &History) -> Verdict {
    let mut verdict = Verdict::new("I9", "planted secrets appear nowhere");
    let forms: Vec<(&String, Vec<String>)> =
        history.secrets.iter().map(|secret| (secret, forms(secret))).collect();
    for (place, content) in &history.places {
        let content = String::from_utf8_lossy(content);
        let mut found = forms.iter().filter(|(_, forms)| {
            let mut forms = forms.iter();
            forms.any(|form| content.contains(form.as_str()))
        });
        let found = found.next();
        verdict.check(found.is_none(), || {
            let secret = found.map(|(secret, _)| secret.as_str());
            format!("{place} shows the secret {}", secret.unwrap_or_default())
        });
    }
    verdict
}

/// A secret as text, as hex, and in Base64 at each of the three alignments it can have.
fn forms(secret: &str) -> Vec<String> {
    let hex = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    let aligned = (0..3).map(|offset| {
        let mut bytes = vec![0; offset];
        bytes.extend_from_slice(secret.as_bytes());
        let text = STANDARD_NO_PAD.encode(bytes);
        // The characters at either end also hold neighbouring bits.
        text.get(offset + 1..text.len() - 2).unwrap_or_default().to_owned()
    });
    [secret.to_owned(), hex].into_iter().chain(aligned).collect()
}
