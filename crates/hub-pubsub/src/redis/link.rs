//! One connection that is kept alive.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::Rng as _;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ErrorKind, PushInfo, PushKind, RedisError, ServerErrorKind, Value};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::settings::Settings;
use super::wanted::{Changes, Name, Wanted};
use crate::target::lasting;

/// First and longest pause before the next try. A server that comes back is found within two seconds.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// A connection that lasted this long was a good one: the next loss starts with the shortest pause again.
const GOOD: Duration = Duration::from_secs(10);
/// A connection is asked this often whether it is still there, and still the right one; only then a dead network is
/// noticed, or that hubs meet elsewhere now.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// Names per SUBSCRIBE, so that thousands after a reconnect do not hold up the server for others.
const AT_ONCE: usize = 512;

/// What the owner of a link hears. Must not block: it is called on the connection's own task.
pub(crate) enum Event {
    /// A message of a channel, and the pattern (in Redis' notation) it matched if it came through one.
    Message { pattern: Option<String>, channel: String, payload: Bytes },
    /// The connection is there and subscribed to all that is wanted. What was sent before may be lost, and nothing that
    /// was sent since has been handed over yet.
    Connected,
}

type Listener = Box<dyn Fn(Event) + Send + Sync>;

/// A connection to send commands on; clones share it.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) redis: MultiplexedConnection,
    generation: u64,
}

/// How a link is.
#[derive(Clone)]
pub(crate) enum State {
    /// The first attempt is not over.
    Connecting,
    Connected(Connection),
    Away(&'static str),
}

/// Keeps one connection and its subscriptions alive until it is dropped.
pub(crate) struct Link {
    shared: Arc<Shared>,
    task: Mutex<JoinSet<()>>,
}

struct Shared {
    /// For the log.
    name: &'static str,
    settings: Settings,
    state: watch::Sender<State>,
    wanted: Wanted,
    listener: Listener,
    gate: Mutex<Gate>,
    give_up: Notify,
}

/// Lets messages through, of one connection and only while all is subscribed: so none is handed over between a gap and
/// its sign.
#[derive(Default)]
struct Gate {
    generation: u64,
    is_open: bool,
}

impl Link {
    /// Must be called within a runtime.
    pub(crate) fn start(name: &'static str, settings: &Settings, listener: Listener) -> Self {
        let shared = Arc::new(Shared {
            name,
            settings: settings.clone(),
            state: watch::Sender::new(State::Connecting),
            wanted: Wanted::default(),
            listener,
            gate: Mutex::default(),
            give_up: Notify::new(),
        });
        let mut task = JoinSet::new();
        task.spawn(run(shared.clone()));
        Self { shared, task: Mutex::new(task) }
    }

    pub(crate) fn state(&self) -> watch::Receiver<State> {
        self.shared.state.subscribe()
    }

    /// The reason, while the server is away.
    pub(crate) fn away(&self) -> Option<&'static str> {
        match *self.shared.state.borrow() {
            State::Away(reason) => Some(reason),
            State::Connecting | State::Connected(_) => None,
        }
    }

    /// The connection, after waiting for the end of the first attempt.
    pub(crate) async fn connection(&self) -> Result<Connection, &'static str> {
        let mut state = self.state();
        let settled = state.wait_for(|state| !matches!(state, State::Connecting));
        // The attempt is bounded as well, to connect and to subscribe.
        match timeout(2 * self.shared.settings.options.timeout, settled).await {
            Ok(Ok(state)) => match &*state {
                State::Connected(connection) => Ok(connection.clone()),
                State::Away(reason) => Err(reason),
                State::Connecting => Err("not connected"),
            },
            _ => Err("not connected"),
        }
    }

    /// Subscribes, or counts one more subscriber. Returns when it is done or when the server is away; what is returned
    /// is to be compared with [`generation`](Self::generation) afterwards.
    pub(crate) async fn subscribe(&self, name: &Name) -> u64 {
        let before = self.generation();
        let confirmed = self.shared.wanted.add(name);
        if self.away().is_some() {
            return before;
        }
        match timeout(self.shared.settings.options.timeout, confirmed).await {
            Ok(Ok(generation)) => generation,
            Ok(Err(_)) | Err(_) => before,
        }
    }

    /// Adds a subscription without waiting for it.
    pub(crate) fn want(&self, name: &Name) {
        drop(self.shared.wanted.add(name));
    }

    pub(crate) fn unsubscribe(&self, name: &Name) {
        self.shared.wanted.remove(name);
    }

    /// Goes up by one each time that [`Event::Connected`] is told.
    pub(crate) fn generation(&self) -> u64 {
        self.shared.gate().generation
    }

    /// This connection doesn't answer: nobody gets it any more, and a new one is made.
    pub(crate) fn give_up(&self, connection: &Connection) {
        let given_up = |state: &mut State| {
            let is_it = matches!(state, State::Connected(now) if now.generation == connection.generation);
            if is_it {
                *state = State::Away("no answer in time");
            }
            is_it
        };
        if self.shared.state.send_if_modified(given_up) {
            self.shared.give_up.notify_one();
        }
    }

    /// Asks the server.
    pub(crate) async fn check(&self) -> Result<(), &'static str> {
        let mut connection = self.connection().await?;
        self.shared.ask(&mut connection).await
    }

    /// Ends the connection for good.
    pub(crate) fn stop(&self) {
        self.task.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
        self.shared.away("closed");
    }
}

async fn run(shared: Arc<Shared>) {
    let mut pause = PAUSE.0;
    loop {
        let reason = match shared.connect().await {
            Ok((connection, lost)) => {
                let since = Instant::now();
                let reason = shared.keep(connection, &lost).await;
                if since.elapsed() > GOOD {
                    pause = PAUSE.0;
                }
                reason
            }
            Err(reason) => reason,
        };
        shared.away(reason);
        // Jitter: all hubs lose the server at the same moment.
        let jitter = rand::rng().random_range(0.5..1.0);
        sleep(pause.mul_f64(jitter)).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

impl Shared {
    /// Also returns what tells of the connection's end.
    async fn connect(self: &Arc<Self>) -> Result<(Connection, Arc<Notify>), &'static str> {
        let patience = self.settings.options.timeout;
        let lost = Arc::new(Notify::new());
        let generation = self.gate().generation + 1;
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(patience)).set_response_timeout(Some(patience));
        let connecting = async {
            let client = self.settings.place.client(&config).await?;
            let config = config.set_push_sender(self.receiver(generation, lost.clone()));
            client.get_multiplexed_async_connection_with_config(&config).await
        };
        // The handshake's answers too: what listens there may be no Redis and say nothing.
        let redis = timeout(patience, connecting).await.map_err(|_| self.late())?;
        let mut connection = Connection { redis: redis.map_err(|error| self.refused(&error))?, generation };
        let all = self.wanted.all();
        self.tell(&mut connection, &all).await?;
        tracing::debug!(link = self.name, "connected to redis");
        // In one step for the messages that come meanwhile: they wait for the lock.
        let mut gate = self.gate();
        *gate = Gate { generation, is_open: true };
        self.state.send_replace(State::Connected(connection.clone()));
        (self.listener)(Event::Connected);
        drop(gate);
        self.wanted.confirm(all.subscribe, generation);
        Ok((connection, lost))
    }

    /// Returns why the connection is no good any more.
    async fn keep(&self, mut connection: Connection, lost: &Notify) -> &'static str {
        let mut ask = interval(ASK_EVERY);
        ask.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let result = tokio::select! {
                () = lost.notified() => Err("connection lost"),
                () = self.give_up.notified() => match *self.state.borrow() {
                    // Said of the connection before.
                    State::Connected(_) => Ok(()),
                    State::Connecting | State::Away(_) => Err("no answer in time"),
                },
                () = self.wanted.changed.notified() => {
                    let changes = self.wanted.changes();
                    let told = self.tell(&mut connection, &changes).await;
                    told.map(|()| self.wanted.confirm(changes.subscribe, connection.generation))
                }
                _ = ask.tick() => self.ask(&mut connection).await,
            };
            if let Err(reason) = result {
                return reason;
            }
        }
    }

    async fn ask(&self, connection: &mut Connection) -> Result<(), &'static str> {
        self.settings.place.ask(&mut connection.redis).await.map_err(|error| self.failed(&error))
    }

    async fn tell(&self, connection: &mut Connection, changes: &Changes) -> Result<(), &'static str> {
        let connection = &mut connection.redis;
        let (channels, patterns) = split(&changes.unsubscribe);
        for some in channels.chunks(AT_ONCE) {
            connection.unsubscribe(some).await.map_err(|error| self.failed(&error))?;
        }
        for some in patterns.chunks(AT_ONCE) {
            connection.punsubscribe(some).await.map_err(|error| self.failed(&error))?;
        }
        let (channels, patterns) = split(&changes.subscribe);
        for some in channels.chunks(AT_ONCE) {
            connection.subscribe(some).await.map_err(|error| self.failed(&error))?;
        }
        for some in patterns.chunks(AT_ONCE) {
            connection.psubscribe(some).await.map_err(|error| self.failed(&error))?;
        }
        Ok(())
    }

    /// Takes what the server pushes on the connection of `generation`.
    fn receiver(self: &Arc<Self>, generation: u64, lost: Arc<Notify>) -> impl Fn(PushInfo) -> Result<(), ()> + use<> {
        // Weak, as the state holds the connection, which holds this.
        let shared = Arc::downgrade(self);
        move |push| {
            if push.kind == PushKind::Disconnection {
                lost.notify_one();
                return Ok(());
            }
            let (Some(shared), Some(event)) = (shared.upgrade(), message(push)) else { return Ok(()) };
            let gate = shared.gate();
            if gate.is_open && gate.generation == generation {
                (shared.listener)(event);
            }
            Ok(())
        }
    }

    fn away(&self, reason: &'static str) {
        self.gate().is_open = false;
        self.wanted.lost();
        let changed = |state: &mut State| {
            let is_news = !matches!(state, State::Away(before) if *before == reason);
            *state = State::Away(reason);
            is_news
        };
        if self.state.send_if_modified(changed) {
            tracing::debug!(link = self.name, reason, "redis is away");
        }
    }

    /// As [`Shared::failed`], while connecting.
    fn refused(&self, error: &RedisError) -> &'static str {
        match self.failed(error) {
            "no answer in time" => self.late(),
            _ if error.is_connection_dropped() && !error.is_connection_refusal() && !self.settings.place.has_tls() => {
                "the connection is ended at once: the server is away or wants TLS"
            }
            reason => reason,
        }
    }

    fn late(&self) -> &'static str {
        if self.settings.place.has_tls() {
            "no answer in time: the server is away or knows no TLS"
        } else {
            "no answer in time"
        }
    }

    /// A reason that can be shown to anyone; the log gets the whole error, which holds no password.
    fn failed(&self, error: &RedisError) -> &'static str {
        tracing::debug!(link = self.name, %error, "redis failed");
        let text = error.to_string();
        match (error.kind(), error.code()) {
            (ErrorKind::AuthenticationFailed, _) | (_, Some("WRONGPASS" | "NOAUTH")) => lasting::LOGIN,
            (ErrorKind::MasterNameNotFoundBySentinel, _) => "no Sentinel knows a master of this name that answers",
            (ErrorKind::Server(ServerErrorKind::Moved), _) => "another node serves the slot of the hub's prefix now",
            (ErrorKind::Server(ServerErrorKind::ClusterDown), _) => "the cluster is down, or most of it not reached",
            _ if text.contains("cluster support disabled") => lasting::ALONE,
            _ if text.contains("DB index is out of range") => lasting::DATABASE,
            _ if text.contains("invalid peer certificate") => lasting::CERTIFICATE,
            _ if text.contains("received corrupt message") => lasting::NO_TLS,
            _ if text.contains("failed to lookup address") => "the name of the host is not known",
            (_, Some("NOPERM")) => lasting::RIGHTS,
            (ErrorKind::Parse | ErrorKind::UnexpectedReturnType, _) => lasting::STRANGER,
            (ErrorKind::RESP3NotSupported, _) => lasting::OLD,
            (ErrorKind::Server(_), _) => "the server refused",
            _ if error.is_timeout() => "no answer in time",
            _ if error.is_connection_refusal() => "connection refused",
            _ => "no connection",
        }
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn split(names: &[Name]) -> (Vec<&str>, Vec<&str>) {
    let channels = names.iter().filter_map(|name| if let Name::Channel(text) = name { Some(&**text) } else { None });
    let patterns = names.iter().filter_map(|name| if let Name::Pattern(text) = name { Some(&**text) } else { None });
    (channels.collect(), patterns.collect())
}

fn message(push: PushInfo) -> Option<Event> {
    let mut data = push.data.into_iter().map(|value| match value {
        Value::BulkString(bytes) => Some(bytes),
        _ => None,
    });
    let mut text = || String::from_utf8(data.next()??).ok();
    let (pattern, channel) = match push.kind {
        PushKind::Message => (None, text()?),
        PushKind::PMessage => (Some(text()?), text()?),
        _ => return None,
    };
    Some(Event::Message { pattern, channel, payload: data.next()??.into() })
}
