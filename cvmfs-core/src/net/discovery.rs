//! Proxies found by themselves: `auto` in a proxy list (spec/network.md section 5).

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;

use super::AttemptError;
use super::names::{Names, ScriptNames};
use super::pac::{Choice, Clock, MAX_SCRIPT, PacError, Script};
use super::proxy::{Proxy, ProxySpec, ProxySpecError};
use super::transport::{Request, Transport};

/// The place that networks agreed on; used where no other is given.
pub const WPAD_URL: &str = "http://wpad/wpad.dat";
/// The word for a group that is to be found.
const AUTO: &str = "auto";
/// Time for one script to be fetched, and then again to answer.
const SCRIPT_LIMIT: Duration = Duration::from_secs(10);

/// A proxy list with groups to be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovery {
    /// The list as configured, with `auto` for some groups.
    pub list: String,
    /// `http_proxy` of the environment: if set, it is the answer.
    pub environment: Option<String>,
    /// Where scripts are; `auto` stands for [`WPAD_URL`].
    pub scripts: Vec<String>,
}

/// Why nothing was found.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// No script could be used.
    #[error("no proxy script could be used: {0}")]
    Scripts(String),
    /// What was found is no proxy list.
    #[error("the proxies found cannot be used")]
    List(#[from] ProxySpecError),
}

#[derive(Debug, thiserror::Error)]
enum ScriptError {
    #[error(transparent)]
    Fetch(#[from] AttemptError),
    #[error("no answer within {0:?}")]
    Late(Duration),
    #[error(transparent)]
    Script(#[from] PacError),
    #[error("the evaluation ended without an answer")]
    Lost,
}

impl Discovery {
    /// Tells whether a proxy list has a group to be found.
    pub fn is_wanted(list: &str) -> bool {
        list.split(';').any(|group| group.trim() == AUTO)
    }

    /// Finds the groups and returns the whole list as text; it parses as [`ProxySpec`].
    ///
    /// # Errors
    /// If no script can be fetched and evaluated, or it answers nonsense.
    pub async fn find(
        &self,
        transport: &dyn Transport,
        names: &Names,
        servers: &[String],
    ) -> Result<String, DiscoveryError> {
        let found = match &self.environment {
            Some(proxy) => proxy.clone(),
            None => self.ask_scripts(transport, names, servers).await?,
        };
        let groups = self.list.split(';').map(str::trim);
        let groups: Vec<_> =
            groups.map(|group| if group == AUTO { &*found } else { group }).collect();
        let list = groups.join(";");
        list.parse::<ProxySpec>()?;
        Ok(list)
    }

    async fn ask_scripts(
        &self,
        transport: &dyn Transport,
        names: &Names,
        servers: &[String],
    ) -> Result<String, DiscoveryError> {
        let mut reasons = Vec::new();
        for url in &self.scripts {
            let url = if url == AUTO { WPAD_URL } else { url };
            match ask_script(url, transport, names, servers).await {
                Ok(choices) => return Ok(group_list(&choices)),
                Err(error) => reasons.push(format!("{url}: {}", crate::chain::chain(&error))),
            }
        }
        Err(DiscoveryError::Scripts(reasons.join("; ")))
    }
}

/// Input of the fuzz target `pac_answer`: what a script answers is a list of proxies, or an error.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(choices) = super::pac::fuzz_answer(&text) {
        assert!(group_list(&choices).parse::<ProxySpec>().is_ok());
    }
    if let Ok(spec) = text.parse::<ProxySpec>() {
        assert!(!spec.groups().is_empty());
        for proxy in spec.groups().iter().flatten() {
            assert!(!proxy.display().is_empty());
        }
    }
}

/// Each choice is a group: scripts mean them in order.
fn group_list(choices: &[Choice]) -> String {
    let groups: Vec<_> = choices
        .iter()
        .map(|choice| match choice {
            Choice::Direct => "DIRECT",
            Choice::Proxy(address) => address,
        })
        .collect();
    groups.join(";")
}

async fn ask_script(
    url: &str,
    transport: &dyn Transport,
    names: &Names,
    servers: &[String],
) -> Result<Vec<Choice>, ScriptError> {
    let fetched = tokio::time::timeout(SCRIPT_LIMIT, fetch(url, transport)).await;
    let script = Script::new(&fetched.map_err(|_| ScriptError::Late(SCRIPT_LIMIT))??)?;
    let mut answers = Vec::new();
    for server in servers {
        let host = url::Url::parse(server).ok();
        let host = host.as_ref().and_then(url::Url::host_str).unwrap_or_default().to_owned();
        let target = format!("{server}/.cvmfspublished");
        let script = script.clone();
        let runtime = tokio::runtime::Handle::current();
        let names = Arc::new(ScriptNames { names: names.clone(), runtime });
        let answer = tokio::task::spawn_blocking(move || {
            script.find_proxies(&target, &host, names, &Clock::system(), SCRIPT_LIMIT)
        });
        answers.push(answer.await.map_err(|_| ScriptError::Lost)??);
    }
    let mut answers = answers.into_iter();
    let first = answers.next().unwrap_or_else(|| vec![Choice::Direct]);
    if answers.any(|other| other != first) {
        tracing::warn!(url, "the proxy script answers differently for other servers");
    }
    Ok(first)
}

async fn fetch(url: &str, transport: &dyn Transport) -> Result<Vec<u8>, AttemptError> {
    let (url, proxy) = (url.to_owned(), Proxy::Direct);
    let limit = SCRIPT_LIMIT;
    let request = Request { url, proxy, no_cache: false, window: None, from: 0, limit };
    let mut body = transport.get(request).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = body.pieces.next().await {
        bytes.extend_from_slice(&piece?);
        if bytes.len() > MAX_SCRIPT {
            return Err(AttemptError::TooLarge(MAX_SCRIPT as u64));
        }
    }
    Ok(bytes)
}
