//! Cloud instances, and the settling of their runs; diagnostics of local ones.

use serde_json::{Value, json};

use super::super::hub::clock;
use super::super::hub::http::{Reply, Request};
use super::world::{Access, World, detail, invalid, text};

type Answer = Result<Reply, Reply>;

/// Largest bundle of diagnostics.
const BUNDLE: usize = 52_428_800;

/// The token of a request that is good for `cloud` or for local instances.
pub fn bearer(world: &World, request: &Request, cloud: bool) -> Result<Access, Reply> {
    let header = request.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
    let Some(token) = header else { return Err(detail(401, "missing_bearer")) };
    let known = world.access.get(token).filter(|access| access.expires > world.now());
    let access = known.filter(|access| access.launch.is_some() == cloud).ok_or_else(|| detail(401, "invalid_token"))?;
    let instance = world.instances.get(&access.instance).ok_or_else(|| detail(401, "daemon_instance_not_found"))?;
    if instance.revoked {
        return Err(detail(403, "daemon_revoked"));
    }
    Ok(access.clone())
}

pub fn settle(world: &mut World, request: &Request, body: &Value) -> Answer {
    let caller = bearer(world, request, true)?.instance;
    let id = request.segment(3);
    let key = text(body, "idempotency_key", 1, 128)?.to_owned();
    text(body, "model", 1, 128)?;
    for field in ["input_cache_hit_tokens", "input_cache_miss_tokens", "output_tokens", "sandbox_seconds"] {
        body[field].as_u64().ok_or_else(|| invalid(field))?;
    }
    if let Some(run) = world.runs.get(&id).filter(|run| run.instance != caller) {
        let what = format!("{caller} settles run {id} of {}", run.instance);
        world.violate(what);
        return Err(detail(403, "run_of_another_daemon"));
    }
    let deduplicated = world.usage.contains_key(&key);
    if !deduplicated {
        let run = world.runs.get_mut(&id).ok_or_else(|| detail(404, "no_reservation"))?;
        if !std::mem::take(&mut run.active) {
            return Err(detail(409, "reservation_not_active"));
        }
        world.usage.insert(key.clone(), body.clone());
    }
    Ok(Reply::json(
        200,
        &json!({
            "run_id": id, "usage_event_id": format!("ue_{key}"), "credits_charged": 1,
            "sandbox_seconds": body["sandbox_seconds"], "idempotency_key": key, "deduplicated": deduplicated,
        }),
    ))
}

pub fn upload(world: &mut World, request: &Request) -> Answer {
    bearer(world, request, false)?;
    if request.body.is_empty() {
        return Err(detail(400, "empty_diagnostic_bundle"));
    }
    if request.body.len() > BUNDLE {
        return Err(detail(413, "diagnostic_bundle_too_large"));
    }
    if !request.body.starts_with(b"PK\x03\x04") {
        return Err(detail(400, "diagnostic_bundle_must_be_zip"));
    }
    let name = request.header("x-botcord-filename").unwrap_or("bundle.zip").to_owned();
    let (id, size, expires) = (world.fresh_uuid(), request.body.len(), world.now() + 168 * 3_600_000);
    world.uploads.push((name.clone(), request.body.clone()));
    let expires = clock::iso(expires, "+00:00");
    Ok(Reply::json(
        200,
        &json!({"ok": true, "bundle_id": id, "filename": name, "size_bytes": size, "expires_at": expires}),
    ))
}
