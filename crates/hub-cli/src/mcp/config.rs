use std::path::Path;

use clap::ValueEnum;
use serde_json::{Value, json};

use crate::connect::Globals;
use crate::failure::{Failure, Result};

/// How MCP hosts want a server to be described.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Form {
    /// `mcpServers`: Claude Desktop and Code, Cursor, Windsurf, Cline, Gemini CLI and most others.
    Common,
    /// `servers`: VS Code.
    Vscode,
    /// `context_servers`: Zed.
    Zed,
    /// For hosts that reach the hub themselves, over HTTP.
    Http,
}

/// The text to paste. It never holds a key: a configuration is shown, shared and committed.
pub(super) fn snippet(form: Form, globals: &Globals) -> Result<String> {
    let program = std::env::current_exe().map_err(|e| Failure::Local(format!("cannot tell where `hub` is: {e}")))?;
    Ok(text(form, globals, &program))
}

fn text(form: Form, globals: &Globals, program: &Path) -> String {
    let stdio = stdio(globals, program);
    let value = match form {
        Form::Common => json!({ "mcpServers": { "hub": stdio } }),
        Form::Vscode => {
            let mut server = stdio;
            server["type"] = json!("stdio");
            json!({ "servers": { "hub": server } })
        }
        Form::Zed => json!({ "context_servers": { "hub": stdio } }),
        Form::Http => json!({ "mcpServers": { "hub": {
            "type": "http",
            "url": endpoint(&globals.url),
            "headers": { "Authorization": "Bearer ${HUB_KEY}" },
        } } }),
    };
    format!("{value:#}")
}

fn stdio(globals: &Globals, program: &Path) -> Value {
    let mut args = vec!["mcp".to_owned(), "--url".to_owned(), globals.url.clone()];
    let mut absolute = |flag: &str, path: Option<&Path>| {
        if let Some(path) = path {
            // A host runs the command in a folder of its own.
            let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
            args.extend([flag.to_owned(), path.display().to_string()]);
        }
    };
    absolute("--key-file", globals.key_file());
    absolute("--data-dir", globals.data_dir());
    absolute("--ca-file", globals.ca_file());
    let mut server = json!({ "command": program.display().to_string(), "args": args });
    if globals.key_file().is_none() && globals.has_key() {
        server["env"] = json!({ "HUB_KEY": "the key, or leave this out and use --key-file" });
    }
    server
}

/// The MCP endpoint of the hub whose WebSocket is at `url`.
fn endpoint(url: &str) -> String {
    let base = url.trim_end_matches('/').trim_end_matches("/ws");
    let base = match base.split_once("://") {
        Some(("ws", rest)) => format!("http://{rest}"),
        Some(("wss", rest)) => format!("https://{rest}"),
        _ => base.to_owned(),
    };
    format!("{base}/mcp")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Cli;

    fn globals(words: &[&str]) -> Globals {
        Cli::parse_from([&["hub", "mcp"], words].concat()).globals
    }

    #[test]
    fn no_form_holds_the_key() {
        let globals = globals(&["--key", "hub_secret", "--url", "wss://h.example/hub"]);
        for form in Form::value_variants() {
            let text = text(*form, &globals, Path::new("/bin/hub"));
            assert!(!text.contains("hub_secret"), "{text}");
            assert!(text.contains("h.example/hub"), "{text}");
        }
    }

    #[test]
    fn files_are_named_by_whole_paths() {
        let text = text(Form::Common, &globals(&["--key-file", "hub.key"]), Path::new("/bin/hub"));
        let value: Value = serde_json::from_str(&text).unwrap();
        let args = value["mcpServers"]["hub"]["args"].as_array().unwrap();
        let file = args.iter().position(|a| a == "--key-file").map(|at| args[at + 1].as_str().unwrap()).unwrap();
        assert!(Path::new(file).is_absolute());
    }

    #[test]
    fn the_endpoint_is_beside_the_web_socket() {
        assert_eq!(endpoint("ws://127.0.0.1:3300"), "http://127.0.0.1:3300/mcp");
        assert_eq!(endpoint("wss://h/hub/ws"), "https://h/hub/mcp");
        assert_eq!(endpoint("https://h/"), "https://h/mcp");
    }
}
