//! An HTTP server that says exactly what a test wants, byte by byte.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) line: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// A listening server; it ends when dropped.
pub(crate) struct Upstream {
    pub(crate) port: u16,
    pub(crate) requests: Arc<Mutex<Vec<Request>>>,
    _tasks: JoinSet<()>,
}

impl Upstream {
    /// Serves each connection with `serve`, which is given the request and the rest of the connection.
    pub(crate) async fn start<F>(serve: impl Fn(Request, TcpStream) -> F + Clone + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, mut tasks) = (Arc::clone(&requests), JoinSet::new());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut socket, _)) = listener.accept().await {
                let (serve, seen) = (serve.clone(), Arc::clone(&seen));
                connections.spawn(async move {
                    if let Some(request) = read(&mut socket).await {
                        seen.lock().unwrap().push(request.clone());
                        serve(request, socket).await;
                    }
                });
            }
        });
        Self { port, requests, _tasks: tasks }
    }

    /// Serves every request with a text of the test's.
    pub(crate) async fn answering(answer: impl Fn(&Request) -> String + Clone + Send + Sync + 'static) -> Self {
        Self::start(move |request, mut socket| {
            let answer = answer(&request);
            async move {
                let _ = socket.write_all(answer.as_bytes()).await;
                let _ = socket.shutdown().await;
            }
        })
        .await
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/base", self.port)
    }

    pub(crate) fn last(&self) -> Request {
        self.requests.lock().unwrap().last().cloned().unwrap()
    }

    pub(crate) fn count(&self) -> usize {
        self.requests.lock().unwrap().len()
    }
}

/// A whole response.
pub(crate) fn response(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

pub(crate) fn json(body: &str) -> String {
    response("200 OK", "Content-Type: application/json\r\n", body)
}

/// Waits until the peer has closed; answers how long it took.
pub(crate) async fn closed(socket: &mut TcpStream) -> Duration {
    let started = std::time::Instant::now();
    let mut buffer = [0; 1024];
    while !matches!(socket.read(&mut buffer).await, Ok(0) | Err(_)) {}
    started.elapsed()
}

async fn read(socket: &mut TcpStream) -> Option<Request> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        let mut buffer = [0; 4096];
        match socket.read(&mut buffer).await {
            Ok(0) | Err(_) => return None,
            Ok(n) => bytes.extend_from_slice(&buffer[..n]),
        }
    };
    let text = String::from_utf8_lossy(&bytes[..head]).into_owned();
    let mut lines = text.split("\r\n");
    let line = lines.next()?.to_owned();
    let split = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned()));
    let headers: Vec<_> = lines.filter_map(split).collect();
    let length = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length: usize = length.map_or(0, |(_, value)| value.parse().unwrap());
    let mut body = bytes.split_off(head + 4);
    while body.len() < length {
        let mut buffer = [0; 4096];
        let n = socket.read(&mut buffer).await.ok()?;
        body.extend_from_slice(&buffer[..n]);
    }
    Some(Request { line, headers, body: String::from_utf8_lossy(&body).into_owned() })
}
