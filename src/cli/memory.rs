//! `bellhop memory`: an agent's working memory, for its owner.

use serde_json::{Map, Value, json};

use super::Context;
use super::args::Parsed;
use super::exit::Exit;
use super::failure::Failure;
use super::output::{neutral, say, say_json};
use super::transcript::agent;
use crate::config::Config;
use crate::prompt::memory::{Memory, MemoryStore, Update};
use crate::time;

/// Runs the command.
pub fn run(args: &Parsed, context: &Context<'_>) -> Result<Exit, Failure> {
    let config = context.config()?;
    let agent = agent(args, &config)?;
    known(&agent, &config, context)?;
    let store = MemoryStore::new(context.home.root(), context.home.daemon_dir());
    let now = time::rfc3339(time::now_ms());
    let failed = |e: &dyn std::fmt::Display| Failure::new(e.to_string());
    match args.verb_name() {
        "set" => {
            let update =
                Update { goal: args.text("goal"), section: args.text("section"), content: args.text("content") };
            let (goal, has_content) = (update.goal.clone(), update.content.is_some());
            context.home.prepare()?;
            let done = store.update(&agent, &update, &now).map_err(|e| failed(&e))?;
            let mut answer = Map::new();
            answer.insert("ok".into(), true.into());
            answer.insert("totalChars".into(), done.total_chars.into());
            if let Some(goal) = goal {
                answer.insert("goal".into(), if goal.is_empty() { Value::Null } else { goal.into() });
            }
            if has_content {
                answer.insert("section".into(), done.section.into());
                answer.insert("sectionPresent".into(), done.section_present.into());
            }
            say_json(&Value::Object(answer))?;
        }
        "delete" => {
            let section = args.text("section").ok_or_else(|| Failure::usage("memory delete needs --section"))?;
            let update = Update { goal: None, section: Some(section.clone()), content: Some(String::new()) };
            context.home.prepare()?;
            store.update(&agent, &update, &now).map_err(|e| failed(&e))?;
            say(&neutral(&format!("section {section} of {agent} is deleted")))?;
        }
        "clear" => {
            context.home.prepare()?;
            store.clear(&agent, &now).map_err(|e| failed(&e))?;
            say(&neutral(&format!("the memory of {agent} is empty")))?;
        }
        _ => {
            let memory = store.read(&agent);
            let dir = store.dir(&agent).map_err(|e| failed(&e))?;
            if args.flag("json") {
                say_json(&json!({"agentId": agent, "memory": memory, "dir": dir}))?;
                return Ok(Exit::Ok);
            }
            let something = |m: &Memory| m.goal.is_some() || !m.sections.is_empty();
            let Some(memory) = memory.filter(something) else {
                say(&neutral(&format!("the memory of {agent} is empty")))?;
                return Ok(Exit::Ok);
            };
            let mut out = format!("goal: {}\n", memory.goal.as_deref().unwrap_or("(none)"));
            for (name, content) in &memory.sections {
                out.push_str(&format!("\n[section: {name}]\n{content}\n"));
            }
            out.push_str(&format!("\nupdatedAt: {}\n", memory.updated_at));
            say(&neutral(&out))?;
        }
    }
    Ok(Exit::Ok)
}

/// A memory that no agent reads is a mistake in the name. Agents of the hub may be found rather than configured.
fn known(agent: &str, config: &Config, context: &Context<'_>) -> Result<(), Failure> {
    let names = config.agent_ids();
    let found = || {
        let credentials = config.credentials_dir.clone().unwrap_or_else(|| context.home.credentials_dir());
        let plain = !agent.contains(['/', '\0']);
        context.home.agent_dir(agent).is_dir() || (plain && credentials.join(format!("{agent}.json")).is_file())
    };
    if names.contains(&agent) || found() {
        return Ok(());
    }
    Err(Failure::usage(format!("there is no agent {agent:?}; there are: {}", names.join(", "))))
}
