use std::collections::BTreeMap;
use std::future::Future;
use std::panic::Location;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, Stream, StreamExt};
use hub_protocol::ops::Operation;
use hub_protocol::{CallError, ErrorCode, Json, OperationSpec, OperationType};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Definition, DefinitionError};

/// What a handler gives back.
pub enum Reply {
    /// A value; becomes `data` of a `local` response envelope.
    Value(Json),
    /// A response envelope made elsewhere; passed on unchanged.
    Envelope(Json),
    /// A subscription's values.
    Stream(BoxStream<'static, Result<Json, CallError>>),
}

type Handler<C> = Arc<dyn Fn(C, Json) -> BoxFuture<'static, Result<Reply, CallError>> + Send + Sync>;

/// An operation with its handler.
pub struct Entry<C> {
    definition: Arc<Definition>,
    handler: Handler<C>,
}

impl<C> Entry<C> {
    /// The checked spec.
    #[must_use]
    pub const fn definition(&self) -> &Arc<Definition> {
        &self.definition
    }

    /// Starts the handler. Rights and input have been checked by [`Definition::admit`].
    pub fn run(&self, context: C, input: Json) -> BoxFuture<'static, Result<Reply, CallError>> {
        (self.handler)(context, input)
    }
}

/// Declared operations with their handlers, by id. `C` is what each handler is given beside its input.
pub struct Registry<C> {
    entries: BTreeMap<String, Arc<Entry<C>>>,
}

/// Why a registry can't be built.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// Two declarations of one id.
    #[error("operation {id:?} is declared twice: at {first} and at {second}")]
    Duplicate {
        /// Operation.
        id: String,
        /// Where first.
        first: &'static Location<'static>,
        /// Where again.
        second: &'static Location<'static>,
    },
    /// A malformed declaration.
    #[error("operation declared at {at} is refused")]
    Definition {
        /// Where.
        at: &'static Location<'static>,
        /// Why.
        source: DefinitionError,
    },
}

/// Collects declarations; the first fault is reported by [`RegistryBuilder::build`].
pub struct RegistryBuilder<C> {
    entries: BTreeMap<String, (Entry<C>, &'static Location<'static>)>,
    fault: Option<RegistryError>,
}

impl<C: Send + 'static> Registry<C> {
    /// An empty builder.
    #[must_use]
    pub fn builder() -> RegistryBuilder<C> {
        RegistryBuilder { entries: BTreeMap::new(), fault: None }
    }

    /// The operation with this id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Arc<Entry<C>>> {
        self.entries.get(id)
    }

    /// All operations, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Entry<C>> {
        self.entries.values().map(AsRef::as_ref)
    }

    /// These operations, and those of `others` with other ids.
    pub(crate) fn with(&self, others: &Self) -> Self {
        let mut entries = others.entries.clone();
        entries.extend(self.entries.clone());
        Self { entries }
    }

    /// All specs, by id.
    #[must_use]
    pub fn specs(&self) -> Vec<OperationSpec> {
        self.iter().map(|e| e.definition.spec().clone()).collect()
    }
}

impl<C: Send + 'static> RegistryBuilder<C> {
    /// Binds a typed query or mutation to its handler.
    #[must_use]
    #[track_caller]
    pub fn operation<O, E, F>(self, handler: impl Fn(C, O) -> F + Send + Sync + 'static) -> Self
    where
        O: Operation,
        E: Into<CallError>,
        F: Future<Output = Result<O::Reply, E>> + Send + 'static,
    {
        self.typed(O::spec(), handler)
    }

    /// Binds a typed subscription to its handler, which answers a stream.
    #[must_use]
    #[track_caller]
    pub fn subscription<O, E, F, S>(self, handler: impl Fn(C, O) -> F + Send + Sync + 'static) -> Self
    where
        O: Operation,
        E: Into<CallError>,
        F: Future<Output = Result<S, E>> + Send + 'static,
        S: Stream<Item = Result<O::Reply, CallError>> + Send + 'static,
    {
        self.typed_stream(O::spec(), handler)
    }

    /// Binds a spec to a handler whose types fit its schemas.
    #[must_use]
    #[track_caller]
    pub fn typed<P, R, E, F>(self, spec: OperationSpec, handler: impl Fn(C, P) -> F + Send + Sync + 'static) -> Self
    where
        P: DeserializeOwned + Send + 'static,
        R: Serialize + Send + 'static,
        E: Into<CallError>,
        F: Future<Output = Result<R, E>> + Send + 'static,
    {
        let handler = Arc::new(handler);
        let id: Arc<str> = spec.id().into();
        self.raw(spec, move |context, input| {
            let (handler, id) = (Arc::clone(&handler), Arc::clone(&id));
            async move {
                let params = parse(&id, &input)?;
                let reply = handler(context, params).await.map_err(Into::into)?;
                encode(&reply).map(Reply::Value)
            }
        })
    }

    /// Binds a spec to a handler whose types fit its schemas and that answers a stream.
    #[must_use]
    #[track_caller]
    pub fn typed_stream<P, R, E, F, S>(
        self,
        spec: OperationSpec,
        handler: impl Fn(C, P) -> F + Send + Sync + 'static,
    ) -> Self
    where
        P: DeserializeOwned + Send + 'static,
        R: Serialize + Send + 'static,
        E: Into<CallError>,
        F: Future<Output = Result<S, E>> + Send + 'static,
        S: Stream<Item = Result<R, CallError>> + Send + 'static,
    {
        let handler = Arc::new(handler);
        let id: Arc<str> = spec.id().into();
        self.raw(spec, move |context, input| {
            let (handler, id) = (Arc::clone(&handler), Arc::clone(&id));
            async move {
                let params = parse(&id, &input)?;
                let items = handler(context, params).await.map_err(Into::into)?;
                Ok(Reply::Stream(items.map(|item| item.and_then(|value| encode(&value))).boxed()))
            }
        })
    }

    /// Binds any spec to a handler on JSON text.
    #[must_use]
    #[track_caller]
    pub fn raw<F>(mut self, spec: OperationSpec, handler: impl Fn(C, Json) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Reply, CallError>> + Send + 'static,
    {
        // Boxing happens here, so that the rest is compiled once and not per handler.
        let handler: Handler<C> = Arc::new(move |context, input| Box::pin(handler(context, input)));
        self.add(spec, handler, Location::caller());
        self
    }

    fn add(&mut self, spec: OperationSpec, handler: Handler<C>, at: &'static Location<'static>) {
        if self.fault.is_some() {
            return;
        }
        let definition = match Definition::new(spec) {
            Ok(definition) => Arc::new(definition),
            Err(source) => {
                self.fault = Some(RegistryError::Definition { at, source });
                return;
            }
        };
        let id = definition.id().to_owned();
        if let Some((_, first)) = self.entries.get(&id) {
            self.fault = Some(RegistryError::Duplicate { id, first, second: at });
            return;
        }
        self.entries.insert(id, (Entry { definition, handler }, at));
    }

    /// The finished registry.
    ///
    /// # Errors
    /// The first duplicate or malformed declaration, with the places in the source that made them.
    pub fn build(self) -> Result<Registry<C>, RegistryError> {
        match self.fault {
            Some(fault) => Err(fault),
            None => Ok(Registry {
                entries: self.entries.into_iter().map(|(id, (entry, _))| (id, Arc::new(entry))).collect(),
            }),
        }
    }
}

impl<C> Entry<C> {
    /// Whether the operation answers a stream.
    #[must_use]
    pub fn is_subscription(&self) -> bool {
        self.definition.spec().kind == OperationType::Subscription
    }
}

fn parse<P: DeserializeOwned>(id: &str, input: &Json) -> Result<P, CallError> {
    // A call without input is a call with an empty object: most operations have only optional members.
    let parsed = if input.is_null() { Json::from(serde_json::json!({})).read() } else { input.read() };
    parsed.map_err(|at| {
        // The schema has let it pass, so this is a rule no schema states (for example a number above u64).
        let message = format!("input of {id} does not fit its type: {}: {}", at.path, at.message);
        CallError::new(ErrorCode::ValidationError, message).with_details(&[at])
    })
}

fn encode<T: Serialize>(value: &T) -> Result<Json, CallError> {
    Json::from_serialize(value).map_err(|error| {
        tracing::error!(%error, "a reply cannot be serialized");
        CallError::new(ErrorCode::ExecutionError, "the reply cannot be serialized")
    })
}

#[cfg(test)]
mod tests {
    use hub_protocol::ops::hub::WhoAmI;

    use super::*;

    fn builder() -> RegistryBuilder<()> {
        Registry::<()>::builder().raw(WhoAmI::spec(), |(), _| async { Ok(Reply::Value(Json::null())) })
    }

    #[test]
    fn a_duplicate_names_both_places() {
        let again = builder().raw(WhoAmI::spec(), |(), _| async { Ok(Reply::Value(Json::null())) });
        let message = again.build().err().unwrap().to_string();
        assert!(message.contains("hub.whoami") && message.matches("registry.rs:").count() == 2, "{message}");
    }

    #[test]
    fn a_malformed_name_is_refused() {
        for id in ["nodot", "a..b", "a.b c", "a.é", ".a"] {
            let spec = WhoAmI::spec().with_id(id);
            let built = Registry::<()>::builder().raw(spec, |(), _| async { Ok(Reply::Value(Json::null())) }).build();
            assert!(matches!(built, Err(RegistryError::Definition { .. })), "{id}");
        }
    }
}
