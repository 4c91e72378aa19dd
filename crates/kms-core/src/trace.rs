//! W3C Trace Context: requests that belong together carry the same id, and a server that logs it shows which they are.

use std::{
    fmt,
    hash::{BuildHasher as _, Hasher as _, RandomState},
};

/// The header that has the id (Trace Context §3.2).
pub const TRACEPARENT: &str = "traceparent";
/// The environment variable from which a program takes over the id of the one that has started it, in the form of the
/// header (OpenTelemetry, environment variables as context propagation carriers).
pub const VARIABLE: &str = "TRACEPARENT";

tokio::task_local! {
    static CURRENT: Trace;
}

/// The id of a group of requests.
///
/// This program records no spans itself, so that it passes an id on as it is, and does not set the sampled flag of its own.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Trace {
    trace: u128,
    parent: u64,
    flags: u8,
}

impl Trace {
    /// A new random id.
    pub fn random() -> Self {
        // All zeros are not valid.
        let number = || RandomState::new().build_hasher().finish().max(1);
        let [first, second] = [number(), number()].map(u128::from);
        Self { trace: first << 64 | second, parent: number(), flags: 0 }
    }

    /// Reads a header. `None` if it is not one of the version that is known (Trace Context §3.2.2).
    pub fn parse(header: &str) -> Option<Self> {
        let parts: Vec<_> = header.split('-').collect();
        let &["00", trace, parent, flags] = parts.as_slice() else { return None };
        let is_hex = |text: &str, length: usize| {
            text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        if !(is_hex(trace, 32) && is_hex(parent, 16) && is_hex(flags, 2)) {
            return None;
        }
        let trace = u128::from_str_radix(trace, 16).ok().filter(|id| *id != 0)?;
        let parent = u64::from_str_radix(parent, 16).ok().filter(|id| *id != 0)?;
        Some(Self { trace, parent, flags: u8::from_str_radix(flags, 16).ok()? })
    }

    /// The id of the group that is running; `None` outside [`run`](Self::run).
    pub fn current() -> Option<Self> {
        CURRENT.try_with(|trace| *trace).ok()
    }

    /// Runs a future whose requests carry the id. Those of tasks that it spawns, and of watches, do not.
    pub async fn run<F: Future>(self, future: F) -> F::Output {
        CURRENT.scope(self, future).await
    }

    /// The value of the header [`TRACEPARENT`].
    pub fn header(self) -> String {
        format!("00-{self}-{:016x}-{:02x}", self.parent, self.flags)
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.trace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_of_a_group_have_its_id_and_others_none() {
        assert_eq!(Trace::current(), None);
        let trace = Trace::random();
        assert_eq!(trace.run(async { Trace::current() }).await, Some(trace));
        assert_ne!(Trace::random(), trace);
        assert_eq!(Trace::current(), None);
        let header = trace.header();
        let parts: Vec<_> = header.split('-').collect();
        assert_eq!((parts[0], parts[1], parts[3]), ("00", trace.to_string().as_str(), "00"));
        assert_eq!((parts[1].len(), parts[2].len(), parts.len()), (32, 16, 4));
        assert_eq!(Trace::parse(&header), Some(trace));
    }

    #[test]
    fn a_header_is_passed_on_as_it_is_and_one_of_another_form_is_none() {
        // The example of Trace Context §3.2.3.
        let header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(Trace::parse(header).unwrap().header(), header);
        for wrong in [
            "",
            "00",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        ] {
            assert_eq!(Trace::parse(wrong), None, "{wrong}");
        }
    }
}
