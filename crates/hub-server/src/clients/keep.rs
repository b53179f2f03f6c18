//! Keeps one client connected, whatever becomes of it.

use std::sync::Arc;
use std::time::Duration;

use hub_core::{Hub, brings_operations};
use hub_protocol::{CallError, ErrorCode};
use hub_storage::{ClientRow, ClientState};
use tokio::sync::watch;
use tokio::time::Instant;

use super::adapt::{self, Adapter};
use super::link::Link;

/// Pauses between tries.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How soon an offer that was refused for the moment is made again.
const OFFER_AGAIN: Duration = Duration::from_secs(2);

/// How long a client that has changed is served as it was, while it is being connected anew.
const HANDOVER: Duration = Duration::from_secs(10);

/// How long calls that run may take to end when their connection has been replaced.
const DRAIN: Duration = Duration::from_secs(60);

/// Longest reason that is kept.
const MAX_REASON: usize = 500;

/// What is to become of a client.
#[derive(Clone)]
pub(super) enum Wanted {
    /// It is to be connected as this says.
    Connected(Box<ClientRow>),
    /// It is not; what runs ends with this.
    Gone(CallError),
}

impl Wanted {
    pub(super) fn name(&self) -> String {
        match self {
            Self::Connected(row) => row.name.clone(),
            Self::Gone(_) => String::new(),
        }
    }
}

/// The wish has changed.
struct Changed;

pub(super) struct Keeper {
    hub: Hub,
    wanted: watch::Receiver<Wanted>,
    programs: bool,
    /// What serves its operations, from the first connection on.
    link: Option<Link>,
    /// What executes them now; none without a link.
    adapter: Option<Adapter>,
}

impl Keeper {
    pub(super) fn new(hub: Hub, wanted: watch::Receiver<Wanted>, programs: bool) -> Self {
        Self { hub, wanted, programs, link: None, adapter: None }
    }

    /// Runs until the client is gone.
    pub(super) async fn run(mut self) {
        let error = loop {
            let wanted = self.wanted.borrow_and_update().clone();
            match wanted {
                Wanted::Connected(row) => self.connected(&row).await,
                Wanted::Gone(error) => break error,
            }
        };
        if let Some(link) = self.link.take() {
            link.end(error).await;
        }
    }

    /// Keeps it connected, or notes whether it could be, until something else is wanted.
    async fn connected(&mut self, row: &ClientRow) {
        self.note(row, "pending", None).await;
        let (mut pause, mut told) = (FIRST_PAUSE, None);
        loop {
            let began = Instant::now();
            let reason = match self.serve(row).await {
                Ok(Changed) => return,
                Err(reason) => reason,
            };
            if told.as_ref() != Some(&reason) {
                tracing::warn!(client = %row.name, reason, "a client is not connected");
            }
            self.refuse(row, &reason);
            self.note(row, "degraded", Some(reason.clone())).await;
            told = Some(reason);
            if began.elapsed() > LONGEST_PAUSE {
                pause = FIRST_PAUSE;
            }
            tokio::select! {
                Changed = changed(&mut self.wanted) => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Connects and offers operations until that fails or something else is wanted; the reason holds no secret.
    async fn serve(&mut self, row: &ClientRow) -> Result<Changed, String> {
        let opened = self.hub.open_client(&row.name).await.map_err(|error| CallError::from(error).message)?;
        let clean = |reason: String| opened.scrub(&reason).chars().take(MAX_REASON).collect::<String>();
        if !brings_operations(row) {
            adapt::complete(&opened).map_err(clean)?;
            self.note(row, "ready", None).await;
            return Ok(changed(&mut self.wanted).await);
        }
        let connecting = Adapter::connect(&opened, self.programs);
        let Some(adapter) = self.handover(row, connecting).await else { return Ok(Changed) };
        let adapter = adapter.map_err(clean)?;
        // Begun before what is there is offered, so that no change is missed.
        let mut changes = adapter.changes();
        let (registry, scrubber) = (adapter.registry().map_err(clean)?, Arc::new(opened.scrubber()));
        match &self.link {
            Some(link) => link.replace(registry, scrubber).await.map_err(|error| clean(error.message))?,
            None => {
                let link = Link::open(&self.hub, &row.name, registry, scrubber).await;
                self.link = Some(link.map_err(|error| clean(error.message))?);
            }
        }
        self.retire(std::future::pending());
        self.adapter = Some(adapter);
        tracing::info!(client = %row.name, operations = self.operations(), "a client is connected");
        // What could not be offered in the place of what is.
        let mut refused: Option<CallError> = None;
        loop {
            let (Some(adapter), Some(link)) = (&self.adapter, &self.link) else { return Ok(Changed) };
            let trouble = adapter.trouble().or_else(|| refused.as_ref().map(|error| error.message.clone()));
            let word = if trouble.is_none() { "ready" } else { "degraded" };
            self.note(row, word, trouble.or_else(|| adapter.left_out()).map(clean)).await;
            tokio::select! {
                Changed = changed(&mut self.wanted) => return Ok(Changed),
                () = tokio::time::sleep(OFFER_AGAIN), if refused.as_ref().is_some_and(|error| error.retryable) => {}
                () = link.lost() => {
                    (self.link, self.adapter) = (None, None);
                    return Err("its connection within the hub was lost".to_owned());
                }
                () = changes.next() => {}
            }
            refused = match adapter.registry() {
                Ok(registry) => link.offer(registry).await.err(),
                Err(reason) => Some(CallError::new(ErrorCode::ExecutionError, reason)),
            };
        }
    }

    /// Waits for a connection; whoever calls meanwhile is served by the one before, for a while. `None` when something
    /// else is wanted.
    async fn handover(
        &mut self,
        row: &ClientRow,
        connecting: impl Future<Output = Result<Adapter, String>>,
    ) -> Option<Result<Adapter, String>> {
        let mut connecting = std::pin::pin!(connecting);
        let mut late = std::pin::pin!(tokio::time::sleep(HANDOVER));
        loop {
            tokio::select! {
                Changed = changed(&mut self.wanted) => return None,
                adapter = &mut connecting => return Some(adapter),
                () = &mut late, if self.adapter.is_some() => self.refuse(row, "it is being connected anew"),
            }
        }
    }

    /// Refuses calls from now on; those that run may end.
    fn refuse(&mut self, row: &ClientRow, reason: &str) {
        if let Some(link) = &self.link {
            let text = format!("client {:?} is not connected: {reason}", row.name);
            link.refuse(CallError::new(ErrorCode::OperationUnavailable, text));
            let idle = link.idle();
            self.retire(idle);
        }
    }

    /// Lets the present connection end with the last call on it, when that is over, or after a while.
    fn retire(&mut self, over: impl Future<Output = ()> + Send + 'static) {
        let Some(closing) = self.adapter.take().and_then(Adapter::let_go) else { return };
        self.hub.spawn("client drain", async move {
            let _late = tokio::time::timeout(DRAIN, over).await;
            closing.await;
        });
    }

    fn operations(&self) -> i32 {
        self.link.as_ref().map_or(0, Link::operations)
    }

    async fn note(&self, row: &ClientRow, state: &str, reason: Option<String>) {
        if self.hub.is_draining() {
            // Its own end says nothing of the client.
            return;
        }
        let state = ClientState { state: state.to_owned(), reason, operations: self.operations() };
        if let Err(error) = self.hub.note_client_state(row, state).await {
            tracing::debug!(client = %row.name, %error, "the state of a client was not noted");
        }
    }
}

async fn changed(wanted: &mut watch::Receiver<Wanted>) -> Changed {
    match wanted.changed().await {
        Ok(()) => Changed,
        // The hub is going down.
        Err(_) => std::future::pending().await,
    }
}
