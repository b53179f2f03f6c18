//! A command and everything it starts, ended together.

use tokio::process::{Child, Command};

/// The process group of a command: all that it has started, except what made itself a session of its own.
///
/// Dropping it kills the group: a handler's future is dropped when its call is aborted.
#[derive(Debug)]
pub struct Group {
    #[cfg(unix)]
    id: Option<rustix::process::Pid>,
}

impl Group {
    /// Starts a command as the leader of a group of its own.
    ///
    /// # Errors
    /// When it does not start.
    pub fn spawn(command: &mut Command) -> std::io::Result<(Child, Self)> {
        #[cfg(unix)]
        command.process_group(0);
        // Without process groups this ends the command, and only that.
        let child = command.kill_on_drop(true).spawn()?;
        #[cfg(unix)]
        let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        let group = Self {
            #[cfg(unix)]
            id,
        };
        Ok((child, group))
    }
}

#[cfg(unix)]
impl Drop for Group {
    fn drop(&mut self) {
        // The number of a group is not given away again while it has members. Killed at once, without asking first:
        // nobody would be left to wait for the answer.
        if let Some(id) = self.id {
            let _gone = rustix::process::kill_process_group(id, rustix::process::Signal::KILL);
        }
    }
}
