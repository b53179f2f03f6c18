use std::time::Duration;

use tokio::process::{Child, Command};

/// Time between asking a command to end and killing it.
const GRACE: Duration = Duration::from_secs(2);

/// How often it is looked whether a group is gone.
const LOOK: Duration = Duration::from_millis(20);

/// Rounds in which strays are looked for: one may start another while it is being looked for.
#[cfg(target_os = "linux")]
const ROUNDS: usize = 10;

/// The name of a variable that only one command and what it starts have in their environment.
pub(super) struct Mark(String);

impl Mark {
    pub(super) fn new() -> Self {
        // In the name, not in the value: a command may itself be a spoke that marks its own.
        Self(format!("DEV_SPOKE_RUN_{}", uuid::Uuid::new_v4().simple()))
    }
}

/// All that a command has started: its process group and, on Linux, what has left it but bears its mark.
///
/// Dropping it kills them, so that a runtime that is torn down leaves nothing behind.
pub(super) struct Group {
    #[cfg(unix)]
    id: Option<rustix::process::Pid>,
    #[cfg(target_os = "linux")]
    mark: Mark,
}

/// Makes the command the leader of a new group.
pub(super) fn lead(command: &mut Command, mark: &Mark) {
    #[cfg(unix)]
    command.process_group(0);
    command.env(&mark.0, "1").kill_on_drop(true);
}

#[cfg(unix)]
impl Group {
    #[cfg_attr(not(target_os = "linux"), expect(unused_variables, reason = "only Linux shows environments"))]
    pub(super) fn of(child: &Child, mark: Mark) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        Self {
            id,
            #[cfg(target_os = "linux")]
            mark,
        }
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
        #[cfg(target_os = "linux")]
        strays::kill(&self.mark.0);
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
        if self.signal(rustix::process::Signal::KILL) {
            #[cfg(target_os = "linux")]
            strays::kill(&self.mark.0);
        }
    }
}

/// Without process groups only the command itself can be ended.
#[cfg(not(unix))]
impl Group {
    pub(super) fn of(_: &Child, _: Mark) -> Self {
        Self {}
    }

    pub(super) async fn end(&mut self, child: &mut Child) {
        let _ = child.kill().await;
    }
}

/// Processes that made themselves a session of their own, found by what they have inherited.
#[cfg(target_os = "linux")]
mod strays {
    use rustix::process::{Pid, Signal, kill_process};

    pub(super) fn kill(mark: &str) {
        for _ in 0..super::ROUNDS {
            let found: Vec<Pid> = find(mark);
            if found.is_empty() {
                return;
            }
            for pid in found {
                let _gone_already = kill_process(pid, Signal::KILL);
            }
        }
        tracing::warn!("a command starts processes faster than they can be ended");
    }

    /// Those of other users and the dead show no environment.
    fn find(mark: &str) -> Vec<Pid> {
        let needle = format!("{mark}=");
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let bears = |pid: &i32| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable.starts_with(needle.as_bytes()))
        };
        let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        numbers.filter(bears).filter_map(Pid::from_raw).collect()
    }
}
