//! The hub on this machine: whoever started it holds its admin key, in a file.

use std::net::IpAddr;
use std::path::PathBuf;

use crate::ConnectError;
use crate::endpoint::Endpoint;

/// Whether a hub's URL leads to this machine. Only there may the admin key of this machine's hub go by itself.
///
/// # Errors
/// When no hub can have this URL.
pub fn is_local(url: &str) -> Result<bool, ConnectError> {
    let host = Endpoint::parse(url)?.host;
    Ok(host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()))
}

/// Where a hub that was started without settings keeps its data, its `admin.key` among them.
#[must_use]
pub fn data_folder() -> Option<PathBuf> {
    let folder = |variable: &str| std::env::var_os(variable).filter(|v| !v.is_empty()).map(PathBuf::from);
    if cfg!(windows) {
        return folder("APPDATA").map(|data| data.join("hub").join("data"));
    }
    if cfg!(target_os = "macos") {
        return folder("HOME").map(|home| home.join("Library/Application Support/hub"));
    }
    let data = folder("XDG_DATA_HOME").or_else(|| folder("HOME").map(|home| home.join(".local/share")));
    data.map(|data| data.join("hub"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_admin_key_goes_to_this_machine_only() {
        for url in ["ws://127.0.0.1:3300", "http://localhost/hub", "ws://[::1]:1/ws", "ws://127.9.9.9"] {
            assert!(is_local(url).unwrap(), "{url}");
        }
        for url in [
            "ws://hub.example.org",
            "ws://10.0.0.1:3300",
            "ws://127.0.0.1.example.org",
            "ws://localhost.evil:1",
            "ws://127.0.0.1@evil.org",
            "ws://127.0.0.1:1@evil.org",
            "ws://[::1",
            "ws://[2001:db8::1]:1",
            "",
        ] {
            assert!(!is_local(url).is_ok_and(|local| local), "{url}");
        }
    }
}
