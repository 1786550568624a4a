//! Which queues replies may go to.

/// Names that replies may go to; `*` is any run of characters.
#[derive(Debug, Clone)]
pub struct ReplyPatterns(pub Vec<String>);

impl ReplyPatterns {
    #[must_use]
    pub fn allow(&self, name: &str) -> bool {
        !name.is_empty() && (Self::is_direct(name) || self.0.iter().any(|pattern| matches(pattern, name)))
    }
}

impl ReplyPatterns {
    /// Whether it is a caller's direct reply-to, as the caller wrote it or as the broker passes it on: with a suffix
    /// that says who the caller is.
    #[must_use]
    pub fn is_direct(name: &str) -> bool {
        name.strip_prefix("amq.rabbitmq.reply-to")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }
}

impl Default for ReplyPatterns {
    fn default() -> Self {
        Self(["amq.gen-*", "amq.rabbitmq.reply-to.*", "reply.*"].map(Into::into).into())
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|left| {
            left.char_indices()
                .map(|(at, _)| at)
                .chain([left.len()])
                .any(|at| left.get(at..).is_some_and(|tail| matches(rest, tail)))
        }),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("amq.rabbitmq.reply-to", true)]
    #[case("amq.rabbitmq.reply-to.g1h2AA5yZXBseUAx.x==", true)]
    #[case("amq.gen-Xyz", true)]
    #[case("reply.billing", true)]
    #[case("roster.commands", false)]
    #[case("replies", false)]
    #[case("", false)]
    fn only_reply_queues_are_replied_to(#[case] name: &str, #[case] allowed: bool) {
        assert_eq!(ReplyPatterns::default().allow(name), allowed);
    }

    #[test]
    fn direct_replies_are_allowed_whatever_the_patterns_say() {
        let none = ReplyPatterns(Vec::new());
        assert!(none.allow("amq.rabbitmq.reply-to") && none.allow("amq.rabbitmq.reply-to.g1h2AA5y.x=="));
        assert!(!none.allow("amq.rabbitmq.reply-together"));
    }

    #[rstest]
    #[case("a*c", "abc", true)]
    #[case("a*c", "ac", true)]
    #[case("a*c*", "axcyc", true)]
    #[case("a*c", "ab", false)]
    #[case("*é*", "caféx", true)]
    fn a_star_is_any_run(#[case] pattern: &str, #[case] name: &str, #[case] fits: bool) {
        assert_eq!(matches(pattern, name), fits);
    }
}
