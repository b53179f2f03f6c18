use std::sync::Arc;

use hub_protocol::{OperationSpec, OperationType};
use tokio::sync::watch;

use crate::hub::Hub;
use crate::key::Principal;

impl Hub {
    /// Specs of the operations that can be called now, that `principal` may call and that `wanted` picks: the hub's
    /// own first, each part by id.
    #[must_use]
    pub fn callable(&self, principal: &Principal, wanted: impl Fn(&OperationSpec) -> bool) -> Vec<OperationSpec> {
        let caller = &principal.identity;
        let own = self.registry().iter().map(|e| e.definition());
        let own = own.filter(|d| d.is_visible_to(caller) && wanted(d.spec())).map(|d| d.spec().clone());
        let mut specs: Vec<OperationSpec> = own.collect();
        let from_spokes = specs.len();
        for offered in self.directory().visible(caller) {
            let shown = offered.shown().filter(|version| !version.providers.is_empty());
            specs.extend(shown.map(|v| v.definition.spec()).filter(|spec| wanted(spec)).cloned());
        }
        specs[from_spokes..].sort_by_key(OperationSpec::id);
        specs
    }

    /// What kind of operation an id names, if `principal` may see it.
    #[must_use]
    pub fn kind_of(&self, principal: &Principal, operation_id: &str) -> Option<OperationType> {
        let plain = operation_id.split('@').next().unwrap_or_default();
        let own = self.registry().get(plain).map(|e| Arc::clone(e.definition()));
        let definition = own.or_else(|| self.directory().show(plain));
        definition.filter(|d| d.is_visible_to(&principal.identity)).map(|d| d.spec().kind)
    }

    /// Changes whenever spokes offer something else than before.
    #[must_use]
    pub fn offers_changed(&self) -> watch::Receiver<u64> {
        self.directory().changed()
    }
}
