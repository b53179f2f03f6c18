use rmcp::ServiceExt;

use super::face::Face;
use super::host::Host;

/// Serves one MCP host over standard input and output, until it closes them.
///
/// # Errors
/// When the two sides don't agree on a beginning, as text for the person who started it.
pub async fn serve_stdio<H: Host>(face: Face<H>) -> Result<(), String> {
    serve(face, (tokio::io::stdin(), tokio::io::stdout())).await
}

/// Serves over any pair of a reader and a writer, one message a line.
pub(super) async fn serve<H, R, W>(face: Face<H>, transport: (R, W)) -> Result<(), String>
where
    H: Host,
    R: tokio::io::AsyncRead + Send + Unpin + 'static,
    W: tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let running = face.serve(transport).await.map_err(|e| format!("the MCP host did not begin a session: {e}"))?;
    running.waiting().await.map(|_| ()).map_err(|e| format!("the MCP session broke off: {e}"))
}
