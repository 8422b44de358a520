//! What `bellhop doctor` has to say about the agents of hubs.

use super::doctor::{Finding, Verdict};
use super::host::AgentRow;
use super::output::one_line;

/// One finding for each agent, and one for each file that was passed over.
pub(super) fn findings(rows: &[AgentRow], passed_over: &[String]) -> Vec<Finding> {
    let warning = |text: &String| {
        let fix = "mend the file, or move it out of the directory of credentials";
        Finding::bad("agent", Verdict::Warning, one_line(text, 300), fix)
    };
    rows.iter().map(finding).chain(passed_over.iter().map(warning)).collect()
}

fn finding(row: &AgentRow) -> Finding {
    let name = row.name.as_ref().map_or_else(|| row.id.clone(), |name| format!("{} ({})", row.id, name.trim()));
    let name = one_line(&name, 100);
    let checked = &row.checked;
    let hub = one_line(checked.hub_url.as_deref().unwrap_or("its hub"), 100);
    match (&row.problem, checked.hub_ok) {
        (Some(problem), _) => {
            let fix = "put the file back, or take the agent out of the configuration";
            Finding::bad("agent", Verdict::Broken, format!("{name}: {problem}"), fix)
        }
        (None, false) => {
            let text = format!("{name}: {hub} does not answer: {}", one_line(&checked.hub_message, 200));
            Finding::bad("agent", Verdict::Warning, text, "look at the network and at the hubUrl of the credentials")
        }
        (None, true) => Finding::ok("agent", format!("{name}: {hub} answers")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::botcord::credentials::check::Checked;

    #[test]
    fn an_agent_is_well_or_says_why_it_is_not() {
        let checked = Checked { hub_url: Some("https://h".into()), hub_ok: true, ..Checked::default() };
        let well =
            AgentRow { id: "ag_1".into(), name: Some("Ada\n".into()), checked: checked.clone(), ..AgentRow::default() };
        let checked = Checked { hub_ok: false, hub_message: "timed out".into(), ..checked };
        let away = AgentRow { name: None, checked, ..well.clone() };
        let broken = AgentRow { problem: Some("keyId is missing".into()), ..away.clone() };
        let found = findings(&[well, away, broken], &["x.json is older".to_owned()]);
        let shown: Vec<_> = found.iter().map(|f| (f.verdict, f.text.as_str())).collect();
        assert_eq!(
            shown,
            [
                (Verdict::Ok, "ag_1 (Ada): https://h answers"),
                (Verdict::Warning, "ag_1: https://h does not answer: timed out"),
                (Verdict::Broken, "ag_1: keyId is missing"),
                (Verdict::Warning, "x.json is older"),
            ]
        );
    }
}
