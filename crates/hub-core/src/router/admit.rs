use std::sync::Arc;

use hub_operations::{Definition, TableError, now_ms, until};
use hub_protocol::ops::Operation;
use hub_protocol::ops::hub::CallOperation;
use hub_protocol::{
    CallError, CallId, CallRequested, ErrorCode, Identity, Json, MAX_NESTING, OnDisconnect, OperationType, Violation,
};
use semver::VersionReq;

use super::keyed::Begun;
use super::terms::{Target, Terms};
use super::{Caller, Leash, Run, deadline_of};
use crate::hub::Hub;
use crate::live::{LiveCall, NewCall};
use crate::redact;

/// A refusal, with the id of the call if it got one.
type Refused = (Option<CallId>, CallError);

impl Hub {
    /// Everything that is decided before a handler is chosen.
    pub(super) async fn admit(
        &self,
        id: CallId,
        caller: Caller,
        mut request: CallRequested,
        leash: Leash,
    ) -> Result<Run, Refused> {
        let target = self.find_or_wait(&request, &caller.identity, &leash).await.map_err(|e| (None, e))?;
        let definition = Arc::clone(target.definition());
        if request.input.is_null() && matches!(target, Target::Own(_)) {
            // A call of the hub's own operation without input is one with no members.
            request.input = Json::from(serde_json::json!({}));
        }
        let checked = definition.admit(&caller.identity, &request.input).and_then(|()| check_metadata(&request));
        if checked.as_ref().is_err_and(|e| e.is(ErrorCode::OperationNotFound)) {
            return Err((None, Definition::not_found(&request.operation_id)));
        }
        let run = self.open(id, caller, request, leash, target).map_err(|e| (None, e))?;
        // From here on the call is in the tree and in the record, refused or not.
        let admitted = match checked {
            Ok(()) => run.check_terms(),
            refused => refused,
        };
        if let Err(error) = admitted {
            return Err((Some(id), run.refuse(error).await));
        }
        self.key_in(run).await
    }

    /// As [`Hub::find`]; waits a little for spokes that are between two hubs.
    async fn find_or_wait(
        &self,
        request: &CallRequested,
        caller: &Identity,
        leash: &Leash,
    ) -> Result<Target, CallError> {
        let found = self.find(request, caller);
        if self.cluster().is_none() || !found.as_ref().is_err_and(|e| e.is(ErrorCode::OperationUnavailable)) {
            return found;
        }
        let deadline = request.deadline.unwrap_or_else(|| now_ms() + hub_protocol::DEFAULT_DEADLINE_MS);
        tokio::select! {
            _came = self.directory().comes_back(&request.operation_id) => self.find(request, caller),
            () = tokio::time::sleep(until(deadline)) => found,
            () = leash.abort.fired() => found,
            () = leash.gone.cancelled() => found,
        }
    }

    /// Looks among the hub's own operations, then in the directory.
    fn find(&self, request: &CallRequested, caller: &Identity) -> Result<Target, CallError> {
        let id = request.operation_id.as_str();
        let range = request.version.as_deref().map(VersionReq::parse).transpose();
        let wanted = range.as_ref().ok().and_then(Option::as_ref);
        let target = match self.registry().get(id).map(|entry| Arc::clone(entry.definition())) {
            Some(own) if own.is_visible_to(caller) && wanted.is_none_or(|w| w.matches(own.version())) => {
                Target::own(id, &own)
            }
            Some(_) => return Err(Definition::not_found(id)),
            None => Target::Spoke(Arc::new(self.directory().find(id, wanted, caller)?)),
        };
        // Only now: to whom the operation is hidden the answer is the same whatever else is wrong with the request.
        match range {
            Ok(_) => Ok(target),
            Err(_) => Err(invalid("/version", "version is not a semver range")),
        }
    }

    /// Gives the call its place in the tree.
    fn open(
        &self,
        id: CallId,
        caller: Caller,
        request: CallRequested,
        leash: Leash,
        target: Target,
    ) -> Result<Run, CallError> {
        let definition = Arc::clone(target.definition());
        let kind = definition.spec().kind;
        let parent = caller.parent.clone();
        let place = parent.as_ref().map_or((id, 0), |p| (p.root, p.depth + 1));
        let mut identity = Identity::clone(&caller.identity);
        identity.chain = parent.as_ref().map(|p| p.caller.chain.clone()).unwrap_or_default();
        identity.chain.push(identity.id.clone());
        let (input, gives) = self.as_recorded(&definition, &request, &caller.identity);
        let live = Arc::new(LiveCall::new(NewCall {
            id,
            root: place.0,
            depth: place.1,
            parent: parent.as_ref().map(|p| p.id),
            request_id: redact::keys_in_text(&request.request_id).into_owned(),
            input,
            idempotency_key: request.idempotency_key.as_deref().map(|k| redact::keys_in_text(k).into_owned()),
            definition,
            gives,
            caller: Arc::new(identity),
            deadline: deadline_of(kind, request.deadline, parent.as_deref()),
            budget: smaller(request.budget, parent.as_ref().and_then(|p| p.budget)),
            rerun: caller.rerun.clone().or_else(|| parent.as_ref().and_then(|p| p.rerun.clone())),
        }));
        self.calls().insert(id, live.parent, Arc::clone(&live)).map_err(refused_by_table)?;
        if parent.as_ref().is_some_and(|p| p.stop.is_fired()) {
            // Only after it was inserted: an abort looks at the tree once more after it has stopped the parent, so
            // that either it finds this call there or this call finds the parent stopped.
            self.calls().remove(id);
            return Err(CallError::new(ErrorCode::Aborted, "the parent call is being aborted"));
        }
        let on_disconnect = request.on_disconnect.unwrap_or(match kind {
            OperationType::Mutation => OnDisconnect::Finish,
            OperationType::Query | OperationType::Subscription => OnDisconnect::Abort,
        });
        let terms = Terms { leash, on_disconnect, idle_ms: request.idle_timeout };
        Ok(Run::new(self.clone(), live, caller, request, target, terms))
    }

    /// The input as it may be recorded, and by whose schema the output is redacted.
    fn as_recorded(
        &self,
        definition: &Arc<Definition>,
        request: &CallRequested,
        caller: &Identity,
    ) -> (redact::Kept, Option<Arc<Definition>>) {
        if definition.id() != CallOperation::ID {
            return (redact::input(definition, &request.input), Some(Arc::clone(definition)));
        }
        // What is passed on is as secret as the operation that it is passed to says.
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Named {
            operation_id: String,
            version: Option<String>,
        }
        let inner = request.input.parse::<Named>().ok().and_then(|named| {
            let plain = named.operation_id.split('@').next().unwrap_or_default().to_owned();
            let inner = CallRequested {
                version: named.version,
                ..CallRequested::new(String::new(), named.operation_id, Json::null())
            };
            let found = self.find(&inner, caller).ok().map(|target| Arc::clone(target.definition()));
            found.or_else(|| self.directory().show(&plain))
        });
        let inner = inner.filter(|d| d.id() != CallOperation::ID);
        (redact::outer_input(definition, inner.as_deref(), &request.input), inner)
    }

    /// Binds a keyed call to its one execution.
    async fn key_in(&self, run: Run) -> Result<Run, Refused> {
        if run.request().idempotency_key.is_none() {
            return Ok(run);
        }
        let id = run.call_id();
        match run.begin_keyed().await {
            Ok(Begun::Run(run)) => Ok(*run),
            Ok(Begun::Known(run, outcome)) => Ok(run.answered(outcome)),
            Err(refused) => {
                let (run, error) = *refused;
                Err((Some(id), run.refuse(error).await))
            }
        }
    }
}

/// What is passed on unread must not break readers that recurse. The input is looked at when it is admitted.
fn check_metadata(request: &CallRequested) -> Result<(), CallError> {
    if request.metadata.as_ref().is_some_and(|metadata| metadata.nests_deeper_than(MAX_NESTING)) {
        let violation = Violation::too_deep("/metadata");
        let message = format!("the metadata {}", violation.message);
        return Err(CallError::new(ErrorCode::ValidationError, message).with_details(&[violation]));
    }
    Ok(())
}

fn invalid(path: &str, message: &str) -> CallError {
    let violation = hub_protocol::Violation { path: path.to_owned(), message: message.to_owned() };
    CallError::new(ErrorCode::ValidationError, message).with_details(&[violation])
}

fn smaller(a: Option<i64>, b: Option<i64>) -> Option<i64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn refused_by_table(error: TableError) -> CallError {
    match error {
        TableError::ParentEnded => CallError::new(ErrorCode::AccessDenied, "the parent call is not running here"),
        TableError::TooDeep(limit) => CallError::new(ErrorCode::Overloaded, error.to_string())
            .with_retryable(false)
            .with_details(&serde_json::json!({ "limit": limit, "of": "depth" })),
        TableError::TooMany(limit) => CallError::new(ErrorCode::Overloaded, error.to_string())
            .with_details(&serde_json::json!({ "limit": limit, "of": "liveDescendants" })),
        TableError::Duplicate => CallError::new(ErrorCode::Conflict, error.to_string()),
    }
}
