//! How a login is obtained and renewed: what is asked of the hub, and what its answers mean. Pure.

use serde_json::{Value, json};

use super::user_auth::Tokens;

/// Asks for a device code.
pub const DEVICE_CODE: &str = "/daemon/auth/device-code";
/// Asks whether the person has entered it.
pub const DEVICE_TOKEN: &str = "/daemon/auth/device-token";
/// Turns a ticket into a login.
pub const INSTALL_TOKEN: &str = "/daemon/auth/install-token";
/// Renews a login.
pub const REFRESH: &str = "/daemon/auth/refresh";

/// Longest label that the hub takes, in characters.
pub const LABEL_LIMIT: usize = 64;
/// The hub that is asked when nothing names one.
pub const DEFAULT_HUB: &str = "https://api.botcord.chat";
/// How long a device code lives when the hub does not say, in seconds.
const CODE_LIFE_S: f64 = 600.0;
/// How often is asked then, in seconds.
const INTERVAL_S: f64 = 5.0;
/// How often is asked after "slow down", in seconds.
const SLOW_INTERVAL_S: f64 = 10.0;
/// Where the hub's page goes after the person has agreed.
const NEXT: &str = "/settings/daemons";

/// What `start` does about the login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Redeem the ticket.
    InstallToken,
    /// Use the login that there is.
    ReuseExisting,
    /// Have a person enter a code.
    DeviceCode,
}

/// What to do, given whether there is a login that can be used, a wish for a new one, and a ticket.
pub fn action(existing: bool, relogin: bool, ticket: bool) -> Action {
    match (ticket, existing && !relogin) {
        (true, _) => Action::InstallToken,
        (false, true) => Action::ReuseExisting,
        (false, false) => Action::DeviceCode,
    }
}

/// A label as the hub takes it; `None` when it is blank.
pub fn label(text: &str) -> Option<String> {
    let text = text.trim();
    (!text.is_empty()).then(|| text.chars().take(LABEL_LIMIT).collect())
}

/// The name of this machine as a label.
pub fn default_label(host: &str) -> String {
    let host = host.trim();
    let cut = host.len().saturating_sub(6);
    let short = match host.get(cut..) {
        Some(end) if end.eq_ignore_ascii_case(".local") => &host[..cut],
        _ => host,
    };
    label(short).unwrap_or_else(|| "daemon".into())
}

/// The body of [`DEVICE_CODE`].
pub fn device_code_body(label: Option<&str>) -> Value {
    label.map_or_else(|| json!({}), |label| json!({"label": label}))
}

/// The body of [`DEVICE_TOKEN`].
pub fn device_token_body(code: &str, label: Option<&str>) -> Value {
    let mut body = json!({"device_code": code});
    if let Some(label) = label {
        body["label"] = label.into();
    }
    body
}

/// The body of [`INSTALL_TOKEN`]. `instance` is the id of this daemon's earlier login.
pub fn install_token_body(ticket: &str, label: Option<&str>, instance: Option<&str>) -> Value {
    let mut body = json!({"install_token": ticket});
    if let Some(label) = label {
        body["label"] = label.into();
    }
    if let Some(instance) = instance {
        body["daemon_instance_id"] = instance.into();
    }
    body
}

/// The body of [`REFRESH`].
pub fn refresh_body(refresh_token: &str) -> Value {
    json!({"refresh_token": refresh_token})
}

/// What a person has to enter, and where.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceCode {
    /// Names this attempt. Secret.
    pub device_code: String,
    /// What the person enters.
    pub user_code: String,
    /// Where.
    pub verification_uri: String,
    /// The same place, with the code.
    pub verification_uri_complete: Option<String>,
    /// Seconds from now.
    pub expires_in: f64,
    /// Seconds between questions.
    pub interval: f64,
}

impl DeviceCode {
    /// Reads the hub's answer; the error names what it lacks.
    pub fn read(answer: &Value) -> Result<Self, &'static str> {
        let text = |camel: &str, snake: &str| {
            let value = answer.get(camel).or_else(|| answer.get(snake))?;
            value.as_str().filter(|text| !text.is_empty()).map(ToOwned::to_owned)
        };
        let seconds = |camel: &str, snake: &str| {
            let value = answer.get(camel).or_else(|| answer.get(snake))?.as_f64()?;
            (value > 0.0).then_some(value)
        };
        Ok(Self {
            device_code: text("deviceCode", "device_code").ok_or("device_code")?,
            user_code: text("userCode", "user_code").ok_or("user_code")?,
            verification_uri: text("verificationUri", "verification_uri").ok_or("verification_uri")?,
            verification_uri_complete: text("verificationUriComplete", "verification_uri_complete"),
            expires_in: seconds("expiresIn", "expires_in").unwrap_or(CODE_LIFE_S),
            interval: seconds("interval", "interval").unwrap_or(INTERVAL_S),
        })
    }

    /// The page to open.
    pub fn page(&self) -> String {
        with_next(self.verification_uri_complete.as_deref().unwrap_or(&self.verification_uri))
    }
}

/// The URL with the query parameter that leads on to the list of daemons; what is no URL stays as it is.
pub fn with_next(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let is_scheme = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    if scheme.is_empty() || !scheme.chars().all(is_scheme) || rest.starts_with('/') || rest.is_empty() {
        return url.to_owned();
    }
    let (before, fragment) = url.split_once('#').map_or((url, None), |(before, fragment)| (before, Some(fragment)));
    let (place, query) = before.split_once('?').unwrap_or((before, ""));
    let bare = !place[scheme.len() + 3..].contains('/');
    let mut out = format!("{place}{}?", if bare { "/" } else { "" });
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        if pair.split('=').next() != Some("next") {
            out.push_str(pair);
            out.push('&');
        }
    }
    out.push_str(&format!("next={}", NEXT.replace('/', "%2F")));
    if let Some(fragment) = fragment {
        out.push_str(&format!("#{fragment}"));
    }
    out
}

/// What an answer to [`DEVICE_TOKEN`] means.
#[derive(Clone, PartialEq)]
pub enum Poll {
    /// Ask again.
    Pending,
    /// Ask again, but not more often than every so many seconds.
    SlowDown(f64),
    /// The person has agreed.
    Issued(Tokens),
    /// It will never come to anything; the text says why.
    Stop(&'static str),
    /// Say so, and ask again.
    Odd,
}

/// Reads an answer to [`DEVICE_TOKEN`].
pub fn poll(status: u16, body: &Value) -> Poll {
    let word = |a: &str, b: &str| body.get(a).or_else(|| body.get(b)).and_then(Value::as_str);
    let said = match status {
        200 => word("status", "state"),
        400 | 428 => word("error", "code"),
        _ => None,
    };
    match (status, said) {
        (_, Some("authorization_pending")) | (200, Some("pending")) => Poll::Pending,
        (_, Some("slow_down")) => {
            let interval = body.get("interval").and_then(Value::as_f64).filter(|s| *s > 0.0);
            Poll::SlowDown(interval.unwrap_or(SLOW_INTERVAL_S))
        }
        (200, _) => Tokens::read(body).map_or(Poll::Odd, Poll::Issued),
        (403, _) => Poll::Stop("the login was denied"),
        (410, _) => Poll::Stop("the code has expired"),
        (400 | 404, _) => Poll::Stop("the hub does not know the code, or it was used already"),
        _ => Poll::Odd,
    }
}

/// Whether a refused renewal is final: the person has to log in again.
pub fn is_rejected(status: u16) -> bool {
    matches!(status, 401 | 403)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_short_and_the_machine_has_one() {
        assert_eq!(default_label("box.Local"), "box");
        assert_eq!(default_label(" "), "daemon");
        assert_eq!(default_label(".local"), "daemon");
        assert_eq!(label(&"é".repeat(80)).unwrap().chars().count(), 64);
    }
}
