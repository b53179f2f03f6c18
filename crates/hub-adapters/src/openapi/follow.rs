//! An API whose document is read again from time to time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::client::OpenApiClient;
use super::source::{Source, SourceError};

/// How often a document is read again, unless asked for otherwise.
pub const REFRESH: Duration = Duration::from_secs(300);

/// Longest pause after a document could not be got.
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// Makes a client of a document's text; the error is for people.
pub type Make = dyn Fn(&str) -> Result<OpenApiClient, String> + Send + Sync;

/// Why there is no API to begin with.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// There is no document.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// It can't be used.
    #[error("{0}")]
    Document(String),
}

/// What is served of an API.
#[derive(Debug, Clone)]
pub struct Served {
    /// Of the last document that could be used.
    pub client: Arc<OpenApiClient>,
    /// Why that is not known to be the newest.
    pub trouble: Option<String>,
}

/// An API that follows its document. Dropping it ends that.
#[derive(Debug)]
pub struct FollowedApi {
    served: watch::Receiver<Served>,
    _following: JoinSet<()>,
}

impl FollowedApi {
    /// Reads the document, and from then on about as often as `every` says; a file at least every 2 s, and nothing again
    /// when `every` is zero.
    ///
    /// # Errors
    /// When there is no usable document now.
    pub async fn open(mut source: Source, every: Duration, make: Arc<Make>) -> Result<Self, FollowError> {
        let text = source.read().await?.unwrap_or_default();
        let client = made(&make, text).await.map_err(FollowError::Document)?;
        let (told, served) = watch::channel(Served { client: Arc::new(client), trouble: None });
        let mut following = JoinSet::new();
        if let Some(pace) = source.pace(every) {
            following.spawn(follow(source, pace, make, told));
        }
        Ok(Self { served, _following: following })
    }

    /// What is served now.
    #[must_use]
    pub fn now(&self) -> Served {
        self.served.borrow().clone()
    }

    /// What is served, now and after each change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Served> {
        self.served.clone()
    }
}

async fn follow(mut source: Source, pace: Duration, make: Arc<Make>, told: watch::Sender<Served>) {
    // Of the newest document, for as long as that stands.
    let mut unusable = None;
    let mut pause = pace;
    loop {
        tokio::time::sleep(about(pause)).await;
        pause = pace;
        let trouble = match source.read().await {
            Ok(None) => unusable.clone(),
            Ok(Some(text)) => match made(&make, text).await {
                Ok(client) => {
                    unusable = None;
                    told.send_replace(Served { client: Arc::new(client), trouble: None });
                    None
                }
                Err(why) => {
                    unusable = Some(format!("the document has changed and can't be used: {why}"));
                    unusable.clone()
                }
            },
            Err(error) => {
                pause = pace.min(LONGEST_RETRY);
                Some(format!("whether the document has changed can't be told: {error}"))
            }
        };
        told.send_if_modified(|served| {
            let differs = served.trouble != trouble;
            served.trouble = trouble;
            differs
        });
    }
}

/// Large documents take long: not where others wait.
async fn made(make: &Arc<Make>, text: String) -> Result<OpenApiClient, String> {
    let make = Arc::clone(make);
    let work = tokio::task::spawn_blocking(move || make(&text));
    work.await.unwrap_or_else(|_| Err("the document brought its import down".to_owned()))
}

/// Up to a tenth more or less, so that many do not ask at the same moment.
fn about(pause: Duration) -> Duration {
    let chance = f64::from(Uuid::new_v4().as_bytes()[0]) / 255.0;
    pause.mul_f64(0.9 + 0.2 * chance)
}
