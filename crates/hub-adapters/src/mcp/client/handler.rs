#![expect(deprecated, reason = "servers of older revisions still ask for sampling and roots, and must be told no")]

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rmcp::model::{
    ClientCapabilities, ClientConfig, CreateMessageRequestParams, CreateMessageResult, ElicitRequestParams,
    ElicitResult, ErrorCode, Implementation, ListRootsResult, ProgressNotificationParam, ProgressToken,
};
use rmcp::service::{NotificationContext, RequestContext};
use rmcp::{ClientHandler, ErrorData, RoleClient};
use tokio::sync::{Notify, mpsc};

/// Progress that came before anybody asked for it is kept so far: the answer to a request may overtake its number.
const EARLY: usize = 64;

/// Progress that waits for a slow reader; beyond it, it is thinned out.
const QUEUE: usize = 64;

/// Answers what an MCP server asks of its client: next to nothing.
#[derive(Clone, Default)]
pub(super) struct Handler {
    pub(super) progress: Routes,
    /// The server says that its tools are other ones.
    pub(super) changed: Arc<Notify>,
}

/// Who waits for which progress.
#[derive(Clone, Default)]
pub(super) struct Routes(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    readers: HashMap<ProgressToken, mpsc::Sender<ProgressNotificationParam>>,
    early: VecDeque<ProgressNotificationParam>,
    /// How many calls may yet ask for progress; without any, nothing is kept.
    asking: usize,
}

/// Progress of one call; forgotten when it is dropped.
pub(super) struct Route {
    routes: Routes,
    token: Option<ProgressToken>,
}

impl Routes {
    /// To be taken before the request goes out.
    pub(super) fn reserve(&self) -> Route {
        self.lock().asking += 1;
        Route { routes: self.clone(), token: None }
    }

    pub(super) fn deliver(&self, progress: ProgressNotificationParam) {
        let mut waiting = self.lock();
        match waiting.readers.get(&progress.progress_token) {
            // A reader that is slow misses some: what counts is the last.
            Some(reader) => drop(reader.try_send(progress)),
            None if waiting.asking > 0 => {
                if waiting.early.len() >= EARLY {
                    waiting.early.pop_front();
                }
                waiting.early.push_back(progress);
            }
            None => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Route {
    /// The progress with this token, from the first on.
    pub(super) fn read(&mut self, token: &ProgressToken) -> mpsc::Receiver<ProgressNotificationParam> {
        let (reader, progress) = mpsc::channel(QUEUE);
        let mut waiting = self.routes.lock();
        waiting.asking = waiting.asking.saturating_sub(1);
        let early = std::mem::take(&mut waiting.early);
        for one in early {
            if one.progress_token == *token {
                drop(reader.try_send(one));
            } else {
                waiting.early.push_back(one);
            }
        }
        waiting.readers.insert(token.clone(), reader);
        drop(waiting);
        self.token = Some(token.clone());
        progress
    }
}

impl Drop for Route {
    fn drop(&mut self) {
        let mut waiting = self.routes.lock();
        match &self.token {
            Some(token) => drop(waiting.readers.remove(token)),
            None => waiting.asking = waiting.asking.saturating_sub(1),
        }
        if waiting.asking == 0 {
            waiting.early.clear();
        }
    }
}

fn refused(what: &'static str) -> ErrorData {
    ErrorData::new(ErrorCode::METHOD_NOT_FOUND, what, None)
}

impl ClientHandler for Handler {
    fn get_info(&self) -> ClientConfig {
        ClientConfig::new(ClientCapabilities::default(), Implementation::new("hub", env!("CARGO_PKG_VERSION")))
    }

    async fn create_message(
        &self,
        _: CreateMessageRequestParams,
        _: RequestContext<RoleClient>,
    ) -> Result<CreateMessageResult, ErrorData> {
        Err(refused("sampling is refused: this client has no model"))
    }

    async fn create_elicitation(
        &self,
        _: ElicitRequestParams,
        _: RequestContext<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        Err(refused("elicitation is refused: nobody is here to ask"))
    }

    async fn list_roots(&self, _: RequestContext<RoleClient>) -> Result<ListRootsResult, ErrorData> {
        Err(refused("this client has no roots"))
    }

    async fn on_tool_list_changed(&self, _: NotificationContext<RoleClient>) {
        self.changed.notify_one();
    }
}
