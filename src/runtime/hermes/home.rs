//! The Hermes home of an agent: made once from what the user has set up for themselves.

use std::fs;
use std::io::{ErrorKind, Result, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::runtime::context_file::private_dir;

/// Largest file that is taken over, in bytes.
const FILE_LIMIT: u64 = 1_048_576;

/// Variables of model providers that are taken over from the user's own `.env`.
const PROVIDER_VARIABLES: [&str; 23] = [
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_TOKEN",
    "AWS_ACCESS_KEY_ID",
    "AWS_BEARER_TOKEN_BEDROCK",
    "AWS_DEFAULT_REGION",
    "AWS_PROFILE",
    "AWS_REGION",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "CEREBRAS_API_KEY",
    "DEEPSEEK_API_KEY",
    "GEMINI_API_KEY",
    "GOOGLE_API_KEY",
    "GROQ_API_KEY",
    "HERMES_INFERENCE_MODEL",
    "HERMES_INFERENCE_PROVIDER",
    "MISTRAL_API_KEY",
    "OPENAI_API_KEY",
    "OPENAI_BASE_URL",
    "OPENROUTER_API_KEY",
    "OPENROUTER_BASE_URL",
    "TOGETHER_API_KEY",
    "XAI_API_KEY",
];

/// Creates `home` and what Hermes needs in it; what is there already stays as it is, except that provider
/// variables missing in `.env` are added.
pub fn seed(home: &Path, users: &Path) -> Result<()> {
    private_dir(home)?;
    let config = home.join("config.yaml");
    if !config.exists()
        && let Some(text) = read(&users.join("config.yaml"))?
    {
        write_new(&config, &text)?;
    }
    let path = home.join(".env");
    let present = read(&path)?;
    let users_env = read(&users.join(".env"))?.unwrap_or_default();
    let missing = missing_lines(present.as_deref().unwrap_or_default(), &users_env);
    match present {
        None => write_new(&path, &format!("# Variables for this agent's Hermes.\n{missing}")),
        Some(_) if missing.is_empty() => Ok(()),
        Some(present) => {
            let gap = if present.is_empty() || present.ends_with('\n') { "" } else { "\n" };
            fs::OpenOptions::new().append(true).open(&path)?.write_all(format!("{gap}{missing}").as_bytes())
        }
    }
}

/// The variable that a line of an `.env` file sets.
fn name(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let line = line.strip_prefix("export ").unwrap_or(line);
    line.split_once('=').map(|(name, _)| name.trim())
}

fn missing_lines(present: &str, users: &str) -> String {
    let known: Vec<_> = present.lines().filter_map(name).collect();
    let wanted = |line: &&str| name(line).is_some_and(|n| PROVIDER_VARIABLES.contains(&n) && !known.contains(&n));
    let lines: Vec<_> = users.lines().filter(wanted).collect();
    if lines.is_empty() { String::new() } else { lines.join("\n") + "\n" }
}

fn read(path: &Path) -> Result<Option<String>> {
    match fs::metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
        Ok(meta) if meta.len() > FILE_LIMIT => return Err(std::io::Error::other("the file is too long")),
        Ok(_) => {}
    }
    fs::read_to_string(path).map(Some)
}

/// A link that somebody put there is not followed, an existing file not touched.
fn write_new(path: &Path, text: &str) -> Result<()> {
    match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        // Two turns of one agent may come here at the same time.
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(e),
        Ok(mut file) => file.write_all(text.as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_is_seeded_once_and_gains_missing_keys() {
        let dir = std::env::temp_dir().join(format!("bellhop-hermes-home-{}", std::process::id()));
        let (home, users) = (dir.join("home"), dir.join("users"));
        fs::create_dir_all(&users).unwrap();
        fs::write(users.join("config.yaml"), "model:\n").unwrap();
        fs::write(users.join(".env"), "OPENAI_API_KEY=a\nPRIVATE=b\n").unwrap();
        seed(&home, &users).unwrap();
        assert_eq!(fs::read_to_string(home.join("config.yaml")).unwrap(), "model:\n");
        let env = fs::read_to_string(home.join(".env")).unwrap();
        assert!(env.contains("OPENAI_API_KEY=a") && !env.contains("PRIVATE"), "{env}");

        fs::write(users.join(".env"), "OPENAI_API_KEY=other\nexport XAI_API_KEY=x\n").unwrap();
        fs::write(users.join("config.yaml"), "changed:\n").unwrap();
        seed(&home, &users).unwrap();
        let again = fs::read_to_string(home.join(".env")).unwrap();
        assert_eq!(again, format!("{env}export XAI_API_KEY=x\n"));
        assert_eq!(fs::read_to_string(home.join("config.yaml")).unwrap(), "model:\n");
        fs::remove_dir_all(dir).unwrap();
    }
}
