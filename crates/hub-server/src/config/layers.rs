use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::{ConfigError, KEYS, Key};

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A command line flag.
    Flag(String),
    /// An environment variable.
    Environment(String),
    /// The file `.env`.
    DotEnv(String),
    /// The TOML file.
    File(PathBuf),
    /// Nobody set it.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => f.write_str(flag),
            Self::Environment(name) => f.write_str(name),
            Self::DotEnv(name) => write!(f, "{name} in .env"),
            Self::File(path) => path.display().fmt(f),
            Self::Default => f.write_str("default"),
        }
    }
}

/// Looks an environment variable up; a parameter, so that tests need no environment.
pub type Lookup<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// The value of every setting, with where it came from.
#[derive(Debug)]
pub struct Layered {
    values: HashMap<&'static str, (String, Source)>,
    home: Option<PathBuf>,
    /// Where systemd has put what the unit loads; the path alone is no secret.
    credentials: Option<PathBuf>,
}

/// The command line, made from the table of settings.
#[must_use]
pub fn command() -> Command {
    let command = Command::new("hub-server")
        .version(env!("CARGO_PKG_VERSION"))
        .about("The hub: one server at the centre of a cluster of AI agents")
        .after_help(
            "Every setting can also be given as HUB_NAME in the environment or in .env, or as name in a TOML file\n\
             (--config FILE or HUB_CONFIG; default DATA_DIR/hub.toml). Flags come first, then the environment, .env,\n\
             the file, the default. `hub-server config` shows what is in force and where it came from.\n\n\
             Examples:\n  hub-server\n  hub-server --listen 127.0.0.1:4000 --data-dir ./data\n  \
             hub-server --listen 0.0.0.0:443 --tls-cert chain.pem --tls-key key.pem",
        )
        .arg(Arg::new("config").long("config").value_name("FILE").global(true).help("TOML file with settings"));
    KEYS.iter().fold(command, |command, key| command.arg(arg(key)))
}

fn arg(key: &'static Key) -> Arg {
    let arg = Arg::new(key.name).long(key.name.replace('_', "-")).global(true).help_heading("Settings");
    let help = if key.default.is_empty() || key.switch {
        key.help.to_owned()
    } else {
        format!("{} [default: {}]", key.help, key.default)
    };
    let arg = arg.help(help);
    if key.switch { arg.action(ArgAction::SetTrue) } else { arg.value_name(key.name.to_uppercase()) }
}

impl Layered {
    /// Lays the sources over each other. `file` is the TOML file's path and text.
    ///
    /// # Errors
    /// When the file or `.env` is malformed.
    pub fn build(
        flags: &ArgMatches,
        env: &Lookup<'_>,
        dotenv: &str,
        file: Option<(PathBuf, String)>,
    ) -> Result<Self, ConfigError> {
        let dotenv = parse_dotenv(dotenv);
        let file = file.map(|(path, text)| parse_toml(&path, &text).map(|table| (path, table))).transpose()?;
        let mut values = HashMap::new();
        for key in KEYS {
            let variable = format!("HUB_{}", key.name.to_uppercase());
            let flag = from_flags(flags, key).map(|v| (v, Source::Flag(format!("--{}", key.name.replace('_', "-")))));
            let value = flag
                .or_else(|| env(&variable).map(|v| (v, Source::Environment(variable.clone()))))
                .or_else(|| dotenv.get(&variable).map(|v| (v.clone(), Source::DotEnv(variable.clone()))))
                .or_else(|| file.as_ref().and_then(|(p, t)| Some((t.get(key.name)?.clone(), Source::File(p.clone())))))
                .unwrap_or_else(|| (key.default.to_owned(), Source::Default));
            values.insert(key.name, value);
        }
        let credentials = env("CREDENTIALS_DIRECTORY").filter(|folder| !folder.is_empty()).map(PathBuf::from);
        Ok(Self { values, home: platform_data_dir(env), credentials })
    }

    /// Reads `.env`, the TOML file and the process environment.
    ///
    /// # Errors
    /// When a file can't be read or is malformed.
    pub fn load(flags: &ArgMatches, env: &Lookup<'_>) -> Result<Self, ConfigError> {
        let dotenv = read_if_there(Path::new(".env"))?.unwrap_or_default();
        let named = flags.get_one::<String>("config").cloned().or_else(|| env("HUB_CONFIG"));
        let file = match named {
            Some(path) => {
                let path = PathBuf::from(path);
                let text = read_if_there(&path)?;
                let text =
                    text.ok_or_else(|| ConfigError::File { file: path.clone(), reason: "no such file".into() })?;
                Some((path, text))
            }
            None => {
                let path = Self::build(flags, env, &dotenv, None)?.data_dir()?.join("hub.toml");
                read_if_there(&path)?.map(|text| (path, text))
            }
        };
        Self::build(flags, env, &dotenv, file)
    }

    /// The raw value.
    #[must_use]
    pub fn text(&self, key: &'static str) -> &str {
        self.values.get(key).map_or("", |(value, _)| value.as_str())
    }

    /// Where the value came from.
    #[must_use]
    pub fn source(&self, key: &'static str) -> Source {
        self.values.get(key).map_or(Source::Default, |(_, source)| source.clone())
    }

    /// The value as `T`.
    ///
    /// # Errors
    /// When it does not parse.
    pub fn parse<T: FromStr>(&self, key: &'static str, expected: &'static str) -> Result<T, ConfigError> {
        self.text(key).trim().parse().map_err(|_| self.bad(key, expected))
    }

    /// The parts of a value that is a list.
    #[must_use]
    pub fn list(&self, key: &'static str) -> Vec<String> {
        self.text(key).split(',').map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned).collect()
    }

    /// The error that the value is not what was expected; a secret one is not in it.
    #[must_use]
    pub fn bad(&self, key: &'static str, expected: &'static str) -> ConfigError {
        let is_secret = KEYS.iter().any(|k| k.name == key && k.secret);
        let value = if is_secret { "[hidden]" } else { self.text(key) }.to_owned();
        ConfigError::Value { key, value, origin: self.source(key), expected }
    }

    /// The data folder, the platform's if none is set.
    ///
    /// # Errors
    /// When none is set and the platform names none.
    pub fn data_dir(&self) -> Result<PathBuf, ConfigError> {
        match self.text("data_dir") {
            "" => self
                .home
                .clone()
                .ok_or_else(|| ConfigError::Rule("no data folder: neither --data-dir nor a home folder is set".into())),
            path => Ok(path.into()),
        }
    }

    /// Where a credential of that name would be.
    pub(super) fn credential(&self, name: &str) -> Option<PathBuf> {
        self.credentials.as_ref().map(|folder| folder.join(name))
    }

    /// Whether a file is a credential.
    pub(super) fn is_credential(&self, path: &Path) -> bool {
        self.credentials.as_ref().is_some_and(|folder| path.starts_with(folder))
    }

    /// Every setting as `name`, value (hidden if secret) and source.
    #[must_use]
    pub fn rows(&self) -> Vec<(&'static str, String, String)> {
        let value = |key: &Key| match (key.name, self.text(key.name)) {
            (_, text) if key.secret && !text.is_empty() => "[hidden]".to_owned(),
            ("data_dir", "") => self.data_dir().map(|p| p.display().to_string()).unwrap_or_default(),
            (_, text) => text.to_owned(),
        };
        KEYS.iter().map(|key| (key.name, value(key), self.source(key.name).to_string())).collect()
    }
}

fn from_flags(flags: &ArgMatches, key: &Key) -> Option<String> {
    if key.switch {
        return flags.get_flag(key.name).then(|| "true".to_owned());
    }
    flags.get_one::<String>(key.name).cloned()
}

fn read_if_there(path: &Path) -> Result<Option<String>, ConfigError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ConfigError::File { file: path.to_owned(), reason: error.to_string() }),
    }
}

/// `NAME=value` lines; `#` begins a comment line, `export` and quotes around the value are dropped.
fn parse_dotenv(text: &str) -> HashMap<String, String> {
    let line = |line: &str| {
        let line = line.trim();
        let (name, value) = line.strip_prefix("export ").unwrap_or(line).split_once('=')?;
        let value = value.trim();
        let bare = |q: char| value.strip_prefix(q)?.strip_suffix(q);
        let value = bare('"').or_else(|| bare('\'')).unwrap_or(value);
        (!line.starts_with('#')).then(|| (name.trim().to_owned(), value.to_owned()))
    };
    text.lines().filter_map(line).collect()
}

fn parse_toml(path: &Path, text: &str) -> Result<HashMap<String, String>, ConfigError> {
    let table: toml::Table = text
        .parse()
        .map_err(|e: toml::de::Error| ConfigError::File { file: path.to_owned(), reason: e.message().to_owned() })?;
    let mut values = HashMap::new();
    for (name, value) in table {
        if !KEYS.iter().any(|key| key.name == name) {
            return Err(ConfigError::Unknown { file: path.to_owned(), key: name });
        }
        let plain = match value {
            toml::Value::String(text) => text,
            toml::Value::Array(items) => {
                let items = items.iter().map(|i| i.as_str().map_or_else(|| i.to_string(), str::to_owned));
                items.collect::<Vec<_>>().join(",")
            }
            other => other.to_string(),
        };
        values.insert(name, plain);
    }
    Ok(values)
}

/// Where the platform keeps a program's data.
fn platform_data_dir(env: &Lookup<'_>) -> Option<PathBuf> {
    let set = |name: &str| env(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if cfg!(windows) {
        return set("APPDATA").map(|p| p.join("hub").join("data"));
    }
    if cfg!(target_os = "macos") {
        return set("HOME").map(|p| p.join("Library/Application Support/hub"));
    }
    set("XDG_DATA_HOME").map(|p| p.join("hub")).or_else(|| set("HOME").map(|p| p.join(".local/share/hub")))
}
