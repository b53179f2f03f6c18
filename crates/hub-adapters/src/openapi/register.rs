//! Imported operations in a registry.

use std::sync::Arc;

use hub_operations::RegistryBuilder;

use super::client::{CallLimits, OpenApiClient};

/// Declares every operation of a client, whatever a handler's context is. Calls have the client's own timeout; that
/// of a call ends its handler in any case.
#[must_use]
pub fn register<C: Send + 'static>(builder: RegistryBuilder<C>, client: &Arc<OpenApiClient>) -> RegistryBuilder<C> {
    register_with(builder, client, |_| CallLimits::default())
}

/// As [`register`], with what the context knows of a call: its deadline and idempotency key.
#[must_use]
pub fn register_with<C: Send + 'static>(
    mut builder: RegistryBuilder<C>,
    client: &Arc<OpenApiClient>,
    limits: impl Fn(&C) -> CallLimits + Clone + Send + Sync + 'static,
) -> RegistryBuilder<C> {
    for operation in client.operations() {
        let (client, limits, id) = (Arc::clone(client), limits.clone(), Arc::<str>::from(operation.spec.id()));
        builder = builder.raw(operation.spec.clone(), move |context, input| {
            let (client, limits, id) = (Arc::clone(&client), limits(&context), Arc::clone(&id));
            async move { client.call(&id, &input, &limits).await }
        });
    }
    builder
}
