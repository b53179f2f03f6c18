//! What a `postgres://` URL says.

use std::path::PathBuf;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

use crate::StoreError;

/// Where a database is and as whom it is entered.
pub(super) struct Address {
    pub(super) config: Config,
    /// Whether the server's certificate is looked at.
    pub(super) verify: bool,
    /// By whom it has to be issued, if not by a public authority.
    pub(super) root_cert: Option<PathBuf>,
}

impl Address {
    /// Errors say what is wrong, but repeat nothing of which the password could be a part.
    pub(super) fn parse(url: &str) -> Result<Self, StoreError> {
        let rest = ["postgres://", "postgresql://"].iter().find_map(|scheme| url.strip_prefix(scheme));
        let rest = rest.ok_or_else(|| wrong("it does not begin with postgres://"))?;
        if rest.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(wrong("it holds a space or a line break; within a name or password a space is %20"));
        }
        let (base, query) = rest.split_once('?').unwrap_or((rest, ""));
        check_hosts(base)?;
        let (mut verify, mut root_cert, mut ours) = (false, None, Vec::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=').ok_or_else(|| wrong("an option behind the `?` lacks its `=`"))? {
                ("sslmode", "verify-full") => {
                    verify = true;
                    ours.push("sslmode=require");
                }
                ("sslmode", mode) if !["disable", "prefer", "require"].contains(&mode) => {
                    return Err(wrong("sslmode must be disable, prefer, require or verify-full"));
                }
                ("sslrootcert", file) => root_cert = Some(decoded(file)),
                _ => ours.push(pair),
            }
        }
        let options = ours.join("&");
        if options.contains('@') && !base.contains('@') {
            return Err(wrong(MANY));
        }
        let config: Config = format!("postgres://{base}?{options}").parse().map_err(|error| refused(&error, query))?;
        if verify && config.get_ssl_mode() != SslMode::Require {
            return Err(wrong("sslmode is given twice"));
        }
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(wrong("it names no host"));
        }
        Ok(Self { config, verify, root_cert })
    }
}

/// The driver takes what is before the first `@` for user and password. The rest of a password with another one would
/// become part of a name that is asked for in the net.
const MANY: &str = "there is an `@` too many; within a user, password, database or option it is %40";

pub(super) fn wrong(why: &str) -> StoreError {
    StoreError::Address { why: why.to_owned() }
}

/// Looks at `[user[:password]@][host[:port],…][/database]`.
fn check_hosts(base: &str) -> Result<(), StoreError> {
    let place = base.split_once('@').map_or(base, |(_, place)| place);
    if place.contains('@') {
        return Err(wrong(MANY));
    }
    let hosts = place.split('/').next().unwrap_or_default();
    for host in hosts.split(',').filter(|_| !hosts.is_empty()) {
        // The colons of an IPv6 address are within brackets.
        let tail = host.rfind(']').map_or(host, |end| &host[end..]);
        let (name, port) = tail.split_once(':').unwrap_or((tail, "5432"));
        if name.is_empty() {
            return Err(wrong("a host is missing"));
        }
        if !port.parse::<u16>().is_ok_and(|port| port > 0) {
            return Err(wrong("a port is no number from 1 to 65535"));
        }
    }
    Ok(())
}

/// What the driver says of an option, unless a password with a `?` in it was taken for options.
fn refused(error: &tokio_postgres::Error, query: &str) -> StoreError {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    let told = cause.filter(|text| text.contains(" option `") && !query.contains('@'));
    told.map_or_else(|| wrong("an option or an escape (%..) is not understood"), |text| wrong(&text))
}

/// Percent-decodes a value of the query; what is no escape stays.
fn decoded(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escape = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match escape.filter(|_| first == b'%').and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    PathBuf::from(String::from_utf8_lossy(&bytes).into_owned())
}

/// Hosts, ports and database, without user and password.
pub(super) fn shown(config: &Config) -> String {
    let named = config.get_hosts().iter().map(|host| match host {
        Host::Tcp(name) => name.clone(),
        #[cfg(unix)]
        Host::Unix(path) => path.display().to_string(),
    });
    let mut hosts: Vec<String> = named.collect();
    if hosts.is_empty() {
        hosts = config.get_hostaddrs().iter().map(ToString::to_string).collect();
    }
    // One port is that of all hosts.
    let ports = config.get_ports();
    let port = |n: usize| ports.get(n).or(ports.first()).unwrap_or(&5432);
    let hosts: Vec<String> = hosts.iter().enumerate().map(|(n, host)| format!("{host}:{}", port(n))).collect();
    format!("postgres://{}/{}", hosts.join(","), config.get_dbname().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_malformed_address_is_told_where_and_without_its_password() {
        for (url, says) in [
            ("", "does not begin with postgres://"),
            ("mysql://me:secret@h/db", "does not begin with postgres://"),
            ("host=h password=secret", "does not begin with postgres://"),
            ("postgres://me:secret@h:port/db", "a port is no number"),
            ("postgres://me:secret@h:0/db", "a port is no number"),
            ("postgres://me:secret@h:70000/db", "a port is no number"),
            ("postgres://me:secret@h:1:2/db", "a port is no number"),
            ("postgres://me:secret@[::1]:x/db", "a port is no number"),
            ("postgres://me:secret/db", "a port is no number"),
            ("postgres://me:secret@a,:5432/db", "a host is missing"),
            ("postgres://me:secret@/db", "names no host"),
            ("postgres://me:se cret@h/db", "a space is %20"),
            ("postgres://me:secret@h/db\n", "a line break"),
            ("postgres://me:s@secret@h/db", "an `@` too many"),
            ("postgres://me:secret?x@h/db", "a port is no number"),
            ("postgres://me:12?secret=x@h/db", "an `@` too many"),
            ("postgres://me:12?secret@h/db", "lacks its `=`"),
            ("postgres://me:secret@h/%FF", "an option or an escape"),
            ("postgres://me:secret@h/db?sslmode=nonsense", "sslmode must be"),
            ("postgres://me:secret@h/db?sslmode=verify-ca", "sslmode must be"),
            ("postgres://me:secret@h/db?sslmode=verify-full&sslmode=disable", "sslmode is given twice"),
            ("postgres://me:secret@h/db?sslmod=require", "unknown option `sslmod`"),
            ("postgres://me:secret@h/db?connect_timeout=soon", "invalid value for option `connect_timeout`"),
            ("postgres://me:secret@h/db?port=soon", "invalid value for option `port`"),
        ] {
            let Err(error) = Address::parse(url) else { panic!("{url} is taken") };
            assert!(error.to_string().contains(says), "{url}: {error}");
            assert!(!format!("{error:?}").contains("secret"), "{url}: {error:?}");
        }
    }

    #[test]
    fn an_address_is_shown_without_its_password() {
        for (url, place) in [
            ("postgres://h", "postgres://h:5432/"),
            ("postgresql://me:secret@h:1/db", "postgres://h:1/db"),
            ("postgres://me:secret%40@[::1]:7/db", "postgres://::1:7/db"),
            ("postgres://me@a,b:7/db?sslmode=verify-full", "postgres://a:5432,b:7/db"),
            ("postgres://me@/db?host=%2Frun%2Fpg&port=7", "postgres:///run/pg:7/db"),
            ("postgres:///db?hostaddr=10.0.0.1&application_name=a%40b", "postgres://10.0.0.1:5432/db"),
            ("postgres://me@a,b/db?options=-csearch_path%3Dhub", "postgres://a:5432,b:5432/db"),
        ] {
            let address = Address::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));
            assert_eq!(shown(&address.config), place, "{url}");
        }
    }
}
