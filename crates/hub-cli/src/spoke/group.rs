//! A command and everything it starts, ended together.

use tokio::process::{Child, Command};

/// The process group of a command: all it has started, except what made itself a session of its own.
///
/// Dropping it kills the group: a handler's future is dropped when its call is aborted.
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
}

#[cfg(unix)]
impl Drop for Group {
    fn drop(&mut self) {
        // The number of a group is not given away again while it has members. Killed at once, without asking first:
        // nobody would be left to wait for the answer.
        if let Some(id) = self.id {
            let _ = rustix::process::kill_process_group(id, rustix::process::Signal::KILL);
        }
    }
}

/// Without process groups only the command itself is ended, by `kill_on_drop`.
#[cfg(not(unix))]
impl Group {
    pub(super) fn of(_: &Child) -> Self {
        Self {}
    }
}
