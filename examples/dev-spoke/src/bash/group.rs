use std::time::Duration;

use tokio::process::{Child, Command};

/// Time between asking a command to end and killing it.
const GRACE: Duration = Duration::from_secs(2);

/// How often it is looked whether a group is gone.
const LOOK: Duration = Duration::from_millis(20);

/// The process group of a command: all it has started, except what made itself a session of its own.
///
/// Dropping it kills the group, so that a runtime that is torn down leaves nothing behind.
pub(super) struct Group {
    #[cfg(unix)]
    id: Option<rustix::process::Pid>,
}

/// Makes the command the leader of a new group.
pub(super) fn lead(command: &mut Command) {
    #[cfg(unix)]
    command.process_group(0);
    command.kill_on_drop(true);
}

#[cfg(unix)]
impl Group {
    pub(super) fn of(child: &Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        Self { id }
    }

    /// Ends what is left of the group: asks first, then kills. `child` is its leader.
    pub(super) async fn end(&mut self, child: &mut Child) {
        use rustix::process::Signal;
        if self.signal(Signal::TERM) {
            // A stopped process (it tried to read from a terminal) sees the request only when it goes on.
            self.signal(Signal::CONT);
            let _ = tokio::time::timeout(GRACE, self.vanish(child)).await;
            self.signal(Signal::KILL);
        }
        let _ = child.wait().await;
        self.id = None;
    }

    async fn vanish(&self, child: &mut Child) {
        // Until it is waited for, the dead leader counts as a member.
        let _ = child.wait().await;
        while self.id.is_some_and(|id| rustix::process::test_kill_process_group(id).is_ok()) {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// False when nobody is there. The number of a group is not given away again while it has members; that one
    /// without members is given away between two looks is possible in theory, as with every signal by number.
    fn signal(&self, signal: rustix::process::Signal) -> bool {
        self.id.is_some_and(|id| rustix::process::kill_process_group(id, signal).is_ok())
    }
}

#[cfg(unix)]
impl Drop for Group {
    fn drop(&mut self) {
        self.signal(rustix::process::Signal::KILL);
    }
}

/// Without process groups only the command itself can be ended.
#[cfg(not(unix))]
impl Group {
    pub(super) fn of(_: &Child) -> Self {
        Self {}
    }

    pub(super) async fn end(&mut self, child: &mut Child) {
        let _ = child.kill().await;
    }
}
