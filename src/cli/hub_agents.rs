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
    match (&row.problem, &row.unreachable) {
        (Some(problem), _) => {
            let fix = "put the file back, or take the agent out of the configuration";
            Finding::bad("agent", Verdict::Broken, format!("{name}: {problem}"), fix)
        }
        (None, Some(why)) => {
            let text = format!("{name}: {} does not answer: {}", row.hub, one_line(why, 200));
            Finding::bad("agent", Verdict::Warning, text, "look at the network and at the hubUrl of the credentials")
        }
        (None, None) => Finding::ok("agent", format!("{name}: {} answers", row.hub)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_well_or_says_why_it_is_not() {
        let well =
            AgentRow { id: "ag_1".into(), name: Some("Ada\n".into()), hub: "https://h".into(), ..AgentRow::default() };
        let away = AgentRow { name: None, unreachable: Some("timed out".into()), ..well.clone() };
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
