//! Getting a document from where it is published.

use std::time::Duration;

use url::Url;

use super::document::MAX_DOCUMENT;
use crate::net::{self, ClientSettings, NetError, NetPolicy};

/// Longest time for the whole document.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Most redirects on the way.
const REDIRECTS: usize = 5;

/// Why a document can't be got.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The policy refuses where the document is, or where a redirect leads.
    #[error(transparent)]
    Net(#[from] NetError),
    /// Another answer than 200.
    #[error("{host} answered {status}")]
    Status {
        /// Whom.
        host: String,
        /// What.
        status: u16,
    },
    /// No answer, or a broken one.
    #[error("the document can't be read from {host}")]
    Broken {
        /// From whom.
        host: String,
    },
    /// Too many redirects, or one from https to http.
    #[error("{host} redirects in a way that is not followed")]
    Redirect {
        /// Who.
        host: String,
    },
    /// Not text, or too much of it.
    #[error("what {0} answers is no text of at most 16 MiB")]
    NoDocument(String),
    /// Took too long.
    #[error("{0} did not answer in time")]
    Timeout(String),
}

/// Reads a document of at most [`MAX_DOCUMENT`] bytes, without credentials. Redirects are followed wherever the policy
/// allows; each is checked.
///
/// # Errors
/// When the policy refuses an address on the way, or there is no document.
pub async fn fetch(url: &Url, policy: &NetPolicy) -> Result<String, FetchError> {
    let host = url.host_str().unwrap_or_default().to_owned();
    let reading = async {
        let mut url = url.clone();
        for _ in 0..=REDIRECTS {
            match step(&url, policy).await? {
                Step::Document(text) => return Ok(text),
                Step::Redirect(next) if url.scheme() == "https" && next.scheme() != "https" => break,
                Step::Redirect(next) => url = next,
            }
        }
        Err(FetchError::Redirect { host: host.clone() })
    };
    tokio::time::timeout(TIMEOUT, reading).await.unwrap_or_else(|_| Err(FetchError::Timeout(host.clone())))
}

enum Step {
    Document(String),
    Redirect(Url),
}

async fn step(url: &Url, policy: &NetPolicy) -> Result<Step, FetchError> {
    let host = url.host_str().unwrap_or_default().to_owned();
    let client = net::client(url, policy, &ClientSettings::default())?;
    let sent = client.get(url.clone()).header(http::header::ACCEPT, "application/json, application/yaml, */*").send();
    let mut response = sent.await.map_err(|error| match refusal(&error) {
        Some(refusal) => FetchError::Net(refusal),
        None => FetchError::Broken { host: host.clone() },
    })?;
    if response.status().is_redirection() {
        let location = response.headers().get(http::header::LOCATION).and_then(|value| value.to_str().ok());
        let next = location.and_then(|location| url.join(location).ok());
        return next.map(Step::Redirect).ok_or(FetchError::Redirect { host });
    }
    if response.status() != http::StatusCode::OK {
        return Err(FetchError::Status { host, status: response.status().as_u16() });
    }
    let mut whole = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|_| FetchError::Broken { host: host.clone() })? {
        if whole.len() + chunk.len() > MAX_DOCUMENT {
            return Err(FetchError::NoDocument(host));
        }
        whole.extend_from_slice(&chunk);
    }
    String::from_utf8(whole).map(Step::Document).map_err(|_| FetchError::NoDocument(host))
}

fn refusal(error: &reqwest::Error) -> Option<NetError> {
    let mut chain = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    chain.find_map(|error| error.downcast_ref::<NetError>().cloned())
}
