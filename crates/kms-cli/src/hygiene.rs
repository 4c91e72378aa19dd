//! Keeps the memory of this process to itself.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Turns off core dumps, and with them `ptrace` and `/proc/PID/mem` for other processes of the same user.
///
/// Neither can fail on a kernel that we run on; if one does, the other still holds.
pub(crate) fn harden() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let _ignored = setrlimit(Resource::Core, none);
    let _ignored = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_dumps_are_off() {
        harden();
        assert_eq!(rustix::process::getrlimit(Resource::Core).current, Some(0));
        assert_eq!(rustix::process::dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
    }
}
