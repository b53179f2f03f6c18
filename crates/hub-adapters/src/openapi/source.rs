//! Where a document is, and whether it has changed there.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue, StatusCode, header};
use url::Url;

use super::document::MAX_DOCUMENT;
use crate::net::{self, ClientSettings, NetError, NetPolicy};

/// Longest time for the whole document.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Most redirects on the way.
const REDIRECTS: usize = 5;

/// Why a document can't be got.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The policy refuses where the document is, or where a redirect leads.
    #[error(transparent)]
    Net(#[from] NetError),
    /// Another answer than 200.
    #[error("{host} answered {status}{}", meaning(*.status))]
    Status {
        /// Whom.
        host: String,
        /// What.
        status: u16,
    },
    /// No answer, or a broken one.
    #[error("the document can't be read from {host}: {cause}")]
    Broken {
        /// From whom.
        host: String,
        /// Why.
        cause: String,
    },
    /// Too many redirects, or one from https to http.
    #[error("{0} redirects in a way that is not followed")]
    Redirect(String),
    /// Not text, or too much of it.
    #[error("{0} is no text of at most 16 MiB")]
    NoDocument(String),
    /// Took too long.
    #[error("{0} did not answer in time")]
    Timeout(String),
    /// A file that can't be read.
    #[error("the document {} can't be read: {kind}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        kind: std::io::ErrorKind,
    },
}

fn meaning(status: u16) -> &'static str {
    match status {
        401 | 403 => ": documents are read without credentials, so give a copy of it instead of the URL",
        404 | 410 => ": there is no document at this URL",
        _ => "",
    }
}

/// Where a document is.
#[derive(Debug)]
pub struct Source {
    place: Place,
    /// Of the text that was read last.
    digest: Option<u64>,
}

#[derive(Debug)]
enum Place {
    Web(Box<Page>),
    File { path: PathBuf, stamp: Option<(SystemTime, u64)> },
    Given(Option<String>),
}

/// A document behind a URL, with what the server has said to recognize it by.
#[derive(Debug)]
struct Page {
    url: Url,
    policy: NetPolicy,
    known: Option<(Url, HeaderMap)>,
}

impl Source {
    /// A URL, read without credentials. Redirects are followed wherever the policy allows; each is checked.
    #[must_use]
    pub fn url(url: Url, policy: NetPolicy) -> Self {
        Self { place: Place::Web(Box::new(Page { url, policy, known: None })), digest: None }
    }

    /// A file.
    #[must_use]
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self { place: Place::File { path: path.into(), stamp: None }, digest: None }
    }

    /// The document itself, which never changes.
    #[must_use]
    pub fn given(text: String) -> Self {
        Self { place: Place::Given(Some(text)), digest: None }
    }

    /// How often to look whether it has changed; `None` for never.
    pub(super) fn pace(&self, wanted: Duration) -> Option<Duration> {
        match &self.place {
            Place::Given(_) => None,
            _ if wanted.is_zero() => None,
            Place::Web(_) => Some(wanted.max(Duration::from_secs(1))),
            // A look at a file costs next to nothing.
            Place::File { .. } => Some(wanted.min(Duration::from_secs(2))),
        }
    }

    /// The document, of at most [`MAX_DOCUMENT`] bytes; `None` when it is the one that was read last.
    ///
    /// # Errors
    /// When the policy refuses an address on the way, or there is no document.
    pub async fn read(&mut self) -> Result<Option<String>, SourceError> {
        let text = match &mut self.place {
            Place::Web(page) => {
                let read = tokio::time::timeout(TIMEOUT, page.read()).await;
                read.unwrap_or_else(|_| Err(SourceError::Timeout(host(&page.url))))?
            }
            Place::File { path, stamp } => read_file(path, stamp).await?,
            Place::Given(text) => text.take(),
        };
        // Many servers have no means to say that nothing has changed.
        let digest = text.as_ref().map(|text| {
            let mut hasher = DefaultHasher::new();
            text.hash(&mut hasher);
            hasher.finish()
        });
        if digest.is_none() || digest == self.digest {
            return Ok(None);
        }
        self.digest = digest;
        Ok(text)
    }
}

async fn read_file(path: &PathBuf, stamp: &mut Option<(SystemTime, u64)>) -> Result<Option<String>, SourceError> {
    let failed = |error: std::io::Error| SourceError::File { path: path.clone(), kind: error.kind() };
    let meta = tokio::fs::metadata(path).await.map_err(failed)?;
    let now = Some((meta.modified().map_err(failed)?, meta.len()));
    if *stamp == now {
        return Ok(None);
    }
    if meta.len() > MAX_DOCUMENT as u64 {
        return Err(SourceError::NoDocument(path.display().to_string()));
    }
    let bytes = tokio::fs::read(path).await.map_err(failed)?;
    let text = String::from_utf8(bytes).map_err(|_| SourceError::NoDocument(path.display().to_string()))?;
    *stamp = now;
    Ok(Some(text))
}

enum Step {
    Document(String, HeaderMap),
    Unchanged,
    Redirect(Url),
}

impl Page {
    async fn read(&mut self) -> Result<Option<String>, SourceError> {
        let mut url = self.url.clone();
        for _ in 0..=REDIRECTS {
            match self.step(&url).await? {
                Step::Document(text, validators) => {
                    self.known = Some((url, validators));
                    return Ok(Some(text));
                }
                Step::Unchanged => return Ok(None),
                Step::Redirect(next) if url.scheme() == "https" && next.scheme() != "https" => break,
                Step::Redirect(next) => url = next,
            }
        }
        Err(SourceError::Redirect(host(&self.url)))
    }

    async fn step(&self, url: &Url) -> Result<Step, SourceError> {
        let host = host(url);
        let broken = |error: &reqwest::Error| SourceError::Broken { host: host.clone(), cause: net::cause(error) };
        let client = net::client(url, &self.policy, &ClientSettings::default())?;
        let mut asked = client.get(url.clone()).header(header::ACCEPT, "application/json, application/yaml, */*");
        if let Some((_, validators)) = self.known.as_ref().filter(|(known, _)| known == url) {
            asked = asked.headers(validators.clone());
        }
        let mut response = asked.send().await.map_err(|error| match net::refusal(&error) {
            Some(refusal) => SourceError::Net(refusal),
            None => broken(&error),
        })?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_MODIFIED if self.known.is_some() => return Ok(Step::Unchanged),
            status if status.is_redirection() => {
                let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
                let next = location.and_then(|location| url.join(location).ok());
                return next.map(Step::Redirect).ok_or(SourceError::Redirect(host));
            }
            status => return Err(SourceError::Status { host, status: status.as_u16() }),
        }
        let validators = validators(response.headers());
        let mut whole = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| broken(&error))? {
            if whole.len() + chunk.len() > MAX_DOCUMENT {
                return Err(SourceError::NoDocument(format!("what {host} answers")));
            }
            whole.extend_from_slice(&chunk);
        }
        let text = String::from_utf8(whole).map_err(|_| SourceError::NoDocument(format!("what {host} answers")))?;
        Ok(Step::Document(text, validators))
    }
}

/// What to ask with, the next time.
fn validators(answered: &HeaderMap) -> HeaderMap {
    let pairs = [(header::ETAG, header::IF_NONE_MATCH), (header::LAST_MODIFIED, header::IF_MODIFIED_SINCE)];
    let said = |(said, asked)| answered.get(&said).map(|value: &HeaderValue| (asked, value.clone()));
    pairs.into_iter().filter_map(said).collect()
}

fn host(url: &Url) -> String {
    url.host_str().unwrap_or_default().to_owned()
}
