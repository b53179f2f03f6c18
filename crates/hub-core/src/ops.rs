//! The hub's own operations, a file per area. Parameters and replies are declared in `hub_protocol::ops`.

pub(crate) mod audit;
mod calls;
pub(crate) use calls::held_items;
pub(crate) mod clients;
mod events;
pub(crate) mod graph;
mod hub;
pub(crate) mod keys;
mod secrets;

use hub_operations::{Registry, RegistryBuilder};
use hub_protocol::OperationSpec;

use crate::ctx::Ctx;

/// Declares all of them.
pub(crate) fn register(builder: RegistryBuilder<Ctx>) -> RegistryBuilder<Ctx> {
    let builder = hub::register(builder);
    let builder = calls::register(builder);
    let builder = events::register(builder);
    let builder = keys::register(builder);
    let builder = clients::register(builder);
    let builder = secrets::register(builder);
    let builder = graph::register(builder);
    audit::register(builder)
}

/// Specs of the hub's own operations, by id: what `docs/operations.json` shows.
///
/// # Errors
/// When a declaration is malformed.
pub fn catalogue() -> Result<Vec<OperationSpec>, crate::CoreError> {
    Ok(register(Registry::builder()).build()?.specs())
}
