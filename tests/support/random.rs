//! A seeded plan of commands: what to send, which of it twice, which of it wrong. The same seed
//! gives the same plan, but for the time in its message ids.

use std::time::{SystemTime, UNIX_EPOCH};

use rand::prelude::*;
use serde_json::{Value, json};
use uuid::{Builder, Uuid};

use super::history::Judged;
use super::request::Request;

/// One command to be sent.
#[derive(Clone, Debug)]
pub struct Step {
    pub request: Request,
    pub judged: Judged,
}

/// How much of what.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    pub users: usize,
    pub commands: usize,
    /// With deletions, role and password changes, which cost more.
    pub wide: bool,
}

/// First the users are made, each under a known id; then everything else, in any order.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub users: Vec<Uuid>,
    pub creations: Vec<Step>,
    pub steps: Vec<Step>,
    /// Stands in every password that the plan sends.
    pub secret: String,
}

/// Makes the plan for a seed. `user` is the identity every command is sent under.
pub fn plan(seed: u64, mix: Mix, user: Option<String>) -> Plan {
    let mut source = Source {
        rng: StdRng::seed_from_u64(seed),
        user,
        users: Vec::new(),
        secret: format!("planted-{seed:x}-zq9"),
        serial: 0,
    };
    let creations = (0..mix.users).map(|_| source.creation()).collect();
    let mut steps: Vec<Step> = Vec::with_capacity(mix.commands);
    while steps.len() < mix.commands {
        let step = source.step(&steps, mix.wide);
        steps.push(step);
    }
    // What is independent may come in any order: shuffled a little, so that most of a user's
    // commands meet in one batch and some overtake each other.
    for window in steps.chunks_mut(16) {
        window.shuffle(&mut source.rng);
    }
    Plan { seed, users: source.users, creations, steps, secret: source.secret }
}

struct Source {
    rng: StdRng,
    user: Option<String>,
    users: Vec<Uuid>,
    secret: String,
    serial: usize,
}

impl Source {
    fn creation(&mut self) -> Step {
        let id = self.uuid();
        let number = self.users.len();
        self.users.push(id);
        let body = json!({
            "id": id,
            "email": format!("user{number}@example.com"),
            "name": format!("User {number}"),
            "password": self.password(),
        });
        self.proper("user.create.v1", body)
    }

    fn step(&mut self, earlier: &[Step], wide: bool) -> Step {
        let kind = self.rng.random_range(0..100);
        match (kind, earlier.choose(&mut self.rng)) {
            (0..10, Some(step)) => Step { request: step.request.again(), judged: step.judged },
            (10..13, Some(step)) if step.judged == Judged::Stored => self.reused(step.request.clone()),
            (13..17, _) => self.invalid(),
            (17..20, _) => {
                let mut step = self.update();
                step.request = step.request.no_reply();
                step
            }
            (20..24, _) => {
                let mut body = self.payload();
                body["name"] = self.name();
                body["expected_version"] = self.rng.random_range(1..5).into();
                self.proper("user.update.v1", body)
            }
            (24..26, _) => {
                let body = json!({ "id": self.uuid(), "name": self.name() });
                self.proper("user.update.v1", body)
            }
            (26..28, _) if wide => {
                let mut body = self.payload();
                body["role"] = ["user", "admin"].choose(&mut self.rng).copied().into();
                self.proper("user.change_role.v1", body)
            }
            (28, _) if wide => {
                let mut body = self.payload();
                body["new_password"] = self.password().into();
                self.proper("user.change_password.v1", body)
            }
            (29, _) if wide => {
                let body = self.payload();
                self.proper("user.delete.v1", body)
            }
            _ => self.update(),
        }
    }

    fn update(&mut self) -> Step {
        let mut body = self.payload();
        let what = self.rng.random_range(0..10);
        if what != 0 {
            body["name"] = self.name();
        }
        if what < 2 {
            // Sometimes another user's address, so that conflicts and swaps occur.
            let number = self.rng.random_range(0..self.users.len().max(1) * 2);
            body["email"] = format!("user{number}@example.com").into();
        }
        self.proper("user.update.v1", body)
    }

    /// The id of a command that was planned before, with another body.
    fn reused(&mut self, earlier: Request) -> Step {
        let mut step = self.update();
        step.request.message_id = earlier.message_id;
        step
    }

    fn invalid(&mut self) -> Step {
        let mut body = self.payload();
        match self.rng.random_range(0..4) {
            0 => body["email"] = "no address".into(),
            1 => body["name"] = "x".into(),
            2 => body["nmae"] = "Ada".into(),
            _ => {}
        }
        Step { judged: Judged::Anew, ..self.proper("user.update.v1", body) }
    }

    fn proper(&mut self, kind: &str, body: Value) -> Step {
        let request = Request::new(kind, body).id(self.uuid()).user(self.user.clone());
        Step { request, judged: Judged::Stored }
    }

    fn payload(&mut self) -> Value {
        match self.users.choose(&mut self.rng) {
            Some(id) => json!({ "id": id }),
            None => json!({ "id": self.uuid() }),
        }
    }

    fn name(&mut self) -> Value {
        self.serial += 1;
        format!("Name {}", self.serial).into()
    }

    fn password(&mut self) -> String {
        format!("{}-{}", self.secret, self.rng.random::<u32>())
    }

    fn uuid(&mut self) -> Uuid {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let millis = since.unwrap_or_default().as_millis();
        let millis = u64::try_from(millis).unwrap_or_default();
        Builder::from_unix_timestamp_millis(millis, &self.rng.random()).into_uuid()
    }
}

/// A seed for a run that has none given: `ROSTER_TEST_SEED`, or anew each time.
pub fn seed() -> u64 {
    std::env::var("ROSTER_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random)
}

#[test]
fn the_same_seed_gives_the_same_plan() {
    let mix = Mix { users: 5, commands: 300, wide: true };
    let shape = |seed| -> Vec<(String, usize)> {
        let plan = plan(seed, mix, None);
        let steps = plan.creations.iter().chain(&plan.steps);
        steps
            .map(|step| {
                let request = &step.request;
                (request.kind.clone().unwrap(), request.body.len())
            })
            .collect()
    };
    assert_eq!(shape(7), shape(7));
    assert_ne!(shape(7), shape(8));
}
