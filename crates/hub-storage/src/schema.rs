//! The tables as diesel sees them; `migrations` makes them.

diesel::table! {
    use diesel::sql_types::*;
    use crate::types::{Micros, Uid};

    accounts (id) {
        id -> Uid,
        name -> Text,
        kind -> Text,
        created_at -> Micros,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use crate::types::{Doc, Micros, Uid};

    api_keys (id) {
        id -> Uid,
        public_id -> Text,
        hash -> Binary,
        principal -> Text,
        account_id -> Uid,
        name -> Text,
        scopes -> Doc,
        resources -> Nullable<Doc>,
        tools -> Doc,
        created_at -> Micros,
        expires_at -> Nullable<Micros>,
        revoked_at -> Nullable<Micros>,
        rotated_to -> Nullable<Uid>,
        last_used_at -> Nullable<Micros>,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use crate::types::{Doc, Micros, Uid};

    audit_entries (id) {
        id -> Uid,
        at -> Micros,
        actor -> Text,
        key_id -> Nullable<Uid>,
        action -> Text,
        target -> Text,
        details -> Doc,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use crate::types::{Doc, Micros, Uid};

    spokes (id) {
        id -> Uid,
        name -> Text,
        owner -> Text,
        spoke_type -> Text,
        instance_id -> Uid,
        started_at -> Micros,
        connection_id -> Uid,
        hub_id -> Uid,
        connected -> Bool,
        draining -> Bool,
        version -> Nullable<Text>,
        project_id -> Nullable<Text>,
        host_info -> Nullable<Doc>,
        labels -> Nullable<Doc>,
        load -> Nullable<Double>,
        agents -> Nullable<Doc>,
        exposure -> Text,
        policy -> Text,
        max_in_flight -> Nullable<Integer>,
        connected_at -> Micros,
        disconnected_at -> Nullable<Micros>,
        last_heartbeat_at -> Nullable<Micros>,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use crate::types::Uid;

    definitions (id) {
        id -> Uid,
        operation_id -> Text,
        version -> Text,
        // Text and not Doc: a backend may respell a Doc, and specs are compared byte by byte.
        spec -> Text,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use crate::types::Uid;

    registrations (spoke_id, definition_id) {
        spoke_id -> Uid,
        definition_id -> Uid,
        local -> Text,
        active -> Bool,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use crate::types::{Doc, Micros, Uid};

    calls (call_id) {
        call_id -> Uid,
        root -> Uid,
        parent -> Nullable<Uid>,
        depth -> Integer,
        status -> Text,
        operation_id -> Text,
        started_at -> Micros,
        completed_at -> Nullable<Micros>,
        cost -> BigInt,
        items -> BigInt,
        attempts -> Integer,
        version -> Text,
        kind -> Text,
        principal -> Text,
        spoke -> Nullable<Text>,
        hub_id -> Uid,
        request_id -> Text,
        idempotency_key -> Nullable<Text>,
        input_size -> BigInt,
        input_hash -> Nullable<Text>,
        output_size -> BigInt,
        output_hash -> Nullable<Text>,
        error -> Nullable<Doc>,
        input -> Nullable<Doc>,
        output -> Nullable<Doc>,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use crate::types::Uid;

    call_edges (source, target, kind) {
        source -> Uid,
        target -> Uid,
        kind -> Text,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use crate::types::{Doc, Micros, Uid};

    idempotency_keys (principal, operation_id, key) {
        principal -> Text,
        operation_id -> Text,
        key -> Text,
        call_id -> Uid,
        input_hash -> Binary,
        created_at -> Micros,
        expires_at -> Micros,
        outcome -> Nullable<Doc>,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use crate::types::{Doc, Micros, Uid};

    events (seq) {
        seq -> BigInt,
        topic -> Text,
        kind -> Text,
        at -> Micros,
        root -> Nullable<Uid>,
        payload -> Doc,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use crate::types::Doc;

    settings (key) {
        key -> Text,
        value -> Doc,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use crate::types::{Micros, Uid};

    hubs (id) {
        id -> Uid,
        address -> Text,
        version -> Text,
        started_at -> Micros,
        renewed_at -> Micros,
        expires_at -> Micros,
        draining -> Bool,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use crate::types::{Micros, Uid};

    leases (name) {
        name -> Text,
        holder -> Uid,
        expires_at -> Micros,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use crate::types::{Micros, Uid};

    applied_batches (writer) {
        writer -> Uid,
        number -> BigInt,
        first_seq -> BigInt,
        written_at -> Micros,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use crate::types::Doc;

    imports (name) {
        name -> Text,
        place -> Nullable<Doc>,
        copied -> BigInt,
        finished -> Bool,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use crate::types::{Doc, Micros, Uid};

    clients (id) {
        id -> Uid,
        name -> Text,
        kind -> Text,
        config -> Doc,
        scopes -> Nullable<Doc>,
        enabled -> Bool,
        revision -> BigInt,
        created_at -> Micros,
        updated_at -> Micros,
        state -> Text,
        reason -> Nullable<Text>,
        state_at -> Nullable<Micros>,
        operations -> Integer,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use crate::types::{Micros, Uid};

    secrets (id) {
        id -> Uid,
        client_id -> Uid,
        name -> Text,
        version -> Integer,
        salt -> Binary,
        nonce -> Binary,
        ciphertext -> Binary,
        created_at -> Micros,
        rotated_at -> Nullable<Micros>,
    }
}

diesel::joinable!(api_keys -> accounts (account_id));
diesel::joinable!(registrations -> spokes (spoke_id));
diesel::joinable!(registrations -> definitions (definition_id));
diesel::allow_tables_to_appear_in_same_query!(accounts, api_keys);
diesel::allow_tables_to_appear_in_same_query!(calls, call_edges);
diesel::allow_tables_to_appear_in_same_query!(registrations, spokes, definitions);
