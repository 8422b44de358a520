//! The lines of OpenClaw gateways below their runtime in the doctor's table.

use serde_json::Value;

use super::output::one_line;

/// One gateway: how it is, and who lives behind it.
pub(super) fn lines(endpoint: &Value) -> Vec<String> {
    let text = |key: &str, limit: usize| endpoint[key].as_str().map(|t| one_line(t, limit)).filter(|t| !t.is_empty());
    let name = format!("\"{}\"", text("name", 60).unwrap_or_default());
    let state = if endpoint["reachable"] == true {
        format!("✓ {}", text("version", 60).unwrap_or("ok".into()))
    } else {
        format!("✗ {}", text("error", 120).or(text("status", 40)).unwrap_or("unreachable".into()))
    };
    let mut lines = vec![format!("gateway {name:<16} {:<40} {state}", text("url", 100).unwrap_or_default())];
    for diagnostic in endpoint["diagnostics"].as_array().into_iter().flatten() {
        let said = diagnostic["message"].as_str().or(diagnostic["code"].as_str()).unwrap_or_default();
        lines.push(format!("  WARN: {}", one_line(said, 200)));
    }
    let agents: Vec<String> = endpoint["agents"].as_array().into_iter().flatten().filter_map(agent).collect();
    if !agents.is_empty() {
        lines.push(format!("  agents (id): {}", agents.join(", ")));
    }
    lines
}

fn agent(agent: &Value) -> Option<String> {
    let id = one_line(agent["id"].as_str()?, 64);
    Some(match agent["name"].as_str() {
        Some(name) => format!("{id} ({})", one_line(name, 64)),
        None => id,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_gateway_has_a_line_for_itself_and_one_for_its_agents() {
        let endpoint = json!({"name": "lab", "url": "ws://127.0.0.1:18789", "status": "reachable", "reachable": true,
            "version": "2026.4.1", "agents": [{"id": "main", "name": "Front desk"}, {"id": "ops"}]});
        assert_eq!(
            lines(&endpoint),
            [
                "gateway \"lab\"            ws://127.0.0.1:18789                     ✓ 2026.4.1",
                "  agents (id): main (Front desk), ops",
            ]
        );
        let endpoint = json!({"name": "a-very-long-name-of-it", "url": "ws://h:1", "status": "acp_disabled",
            "reachable": false, "diagnostics": [{"code": "c", "message": "so\nwhat"}]});
        assert_eq!(
            lines(&endpoint),
            [
                "gateway \"a-very-long-name-of-it\" ws://h:1                                 ✗ acp_disabled",
                "  WARN: so what",
            ]
        );
    }
}
