use std::ops::RangeInclusive;

use hub_protocol::{
    CallError, ErrorCode, Identity, Json, MAX_NESTING, NameError, OperationSpec, Violation, check_operation_id,
};
use semver::Version;

use crate::{Schema, SchemaError, access};

/// What errors may have as HTTP status.
pub const ERROR_STATUS: RangeInclusive<u16> = 400..=599;

/// A checked spec with its compiled schemas. Immutable.
#[derive(Debug)]
pub struct Definition {
    id: String,
    spec: OperationSpec,
    version: Version,
    input: Schema,
    output: Schema,
    resource_param: Option<String>,
}

/// Why a spec is refused.
#[derive(Debug, thiserror::Error)]
pub enum DefinitionError {
    /// The id is malformed.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The version is not semver.
    #[error("operation {id:?} has version {version:?}, which is not semver")]
    Version {
        /// Operation.
        id: String,
        /// What it has.
        version: String,
    },
    /// An error's HTTP status is none of an error.
    #[error("operation {id:?} has the HTTP status {status} for its error {code:?}: it must be 400 to 599")]
    Status {
        /// Operation.
        id: String,
        /// The error's code.
        code: String,
        /// What it has.
        status: u16,
    },
    /// A schema does not compile.
    #[error("{side} of operation {id:?}")]
    Schema {
        /// Operation.
        id: String,
        /// `inputSchema` or `outputSchema`.
        side: &'static str,
        /// Why.
        source: SchemaError,
    },
}

impl Definition {
    /// Checks and compiles a spec.
    ///
    /// # Errors
    /// When name, version, a schema or the status of an error is malformed.
    pub fn new(spec: OperationSpec) -> Result<Self, DefinitionError> {
        let id = spec.id();
        check_operation_id(&id)?;
        let version = Version::parse(&spec.version)
            .map_err(|_| DefinitionError::Version { id: id.clone(), version: spec.version.clone() })?;
        let compile = |side: &'static str, schema: &serde_json::Value| {
            Schema::compile(schema).map_err(|source| DefinitionError::Schema { id: id.clone(), side, source })
        };
        let input = compile("inputSchema", &spec.input_schema)?;
        let output = compile("outputSchema", &spec.output_schema)?;
        let odd = |status: &u16| !ERROR_STATUS.contains(status);
        for error in &spec.error_schemas {
            if let Some(status) = error.http_status.filter(odd) {
                return Err(DefinitionError::Status { id, code: error.code.chars().take(100).collect(), status });
            }
        }
        let resource_param = spec.meta.as_ref().and_then(|m| m.get("resourceParam")?.as_str()).map(str::to_owned);
        Ok(Self { id, version, input, output, resource_param, spec })
    }

    /// `namespace.name`.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The declaration.
    #[must_use]
    pub const fn spec(&self) -> &OperationSpec {
        &self.spec
    }

    /// Parsed version.
    #[must_use]
    pub const fn version(&self) -> &Version {
        &self.version
    }

    /// Compiled input schema.
    #[must_use]
    pub const fn input(&self) -> &Schema {
        &self.input
    }

    /// Compiled schema of each response's `data`.
    #[must_use]
    pub const fn output(&self) -> &Schema {
        &self.output
    }

    /// Whether the caller may know of this operation.
    #[must_use]
    pub fn is_visible_to(&self, caller: &Identity) -> bool {
        access::is_visible(&self.spec.access_control, caller)
    }

    /// Checks rights, then input, so that who has no right learns nothing of the schema.
    ///
    /// # Errors
    /// `OPERATION_NOT_FOUND`, `ACCESS_DENIED` or `VALIDATION_ERROR` with a list of violations as details.
    pub fn admit(&self, caller: &Identity, input: &Json) -> Result<(), CallError> {
        let rule = &self.spec.access_control;
        if !access::is_visible(rule, caller) {
            return Err(Self::not_found(&self.id));
        }
        access::check_resource(rule, caller, self.resource_param.as_deref(), input)?;
        self.check_input(input).map_err(|violations| {
            let message = match violations.first() {
                Some(v) if v.path.is_empty() => format!("input of {}: {}", self.id, v.message),
                Some(v) => format!("input of {}: {}: {}", self.id, v.path, v.message),
                None => format!("input of {} does not fit", self.id),
            };
            CallError::new(ErrorCode::ValidationError, message).with_details(&violations)
        })
    }

    fn check_input(&self, input: &Json) -> Result<(), Vec<Violation>> {
        if input.nests_deeper_than(MAX_NESTING) {
            return Err(vec![Violation::too_deep("")]);
        }
        self.input.check(input)
    }

    /// The one answer to a call of what does not exist or may not be seen.
    #[must_use]
    pub fn not_found(operation_id: &str) -> CallError {
        let shown: String = operation_id.chars().take(200).collect();
        CallError::new(ErrorCode::OperationNotFound, format!("no operation {shown:?} that you may call"))
            .with_details(&serde_json::json!({ "operationId": shown }))
    }
}
