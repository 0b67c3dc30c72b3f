//! Grants: the rights that a pipeline file gives to a stage.

use std::{
    collections::BTreeSet,
    fmt,
    str::FromStr,
    time::{Duration, SystemTime},
};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self},
};

use super::{
    error::{Place, SpecError},
    node::HINT,
    value::Span,
};

/// Rights of a stage. What is not granted, a sandboxed stage does not have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct GrantsSpec {
    /// Directories. Default: none.
    pub dirs: Option<Vec<DirGrant>>,
    /// Variables of the host's own environment that are passed through, by name. Default: none.
    pub env: Option<Vec<String>>,
    /// Addresses that may be connected to, and names that may be looked up: `"host:port"` for TCP and UDP, `"tcp:host:port"`
    /// or `"udp:host:port"` for one of them; `*` stands for any port. Default: none.
    pub net: Option<Vec<NetGrant>>,
    /// The clock that the stage sees. Default: the real one.
    pub clock: Option<ClockSpec>,
    /// The random numbers that the stage gets. Default: real ones.
    pub random: Option<RandomSpec>,
}

/// A directory that a stage may use.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DirGrant {
    /// The directory's path on the host, relative to the pipeline file.
    pub host: String,
    /// The path the stage sees it at. Default: the host's path as it is written. A command sees no other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest: Option<String>,
    /// Whether the stage may change what is in it. Default: read.
    #[serde(default)]
    pub access: Access,
}

/// What a stage may do in a directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Read files and list directories.
    #[default]
    Read,
    /// Make, change, rename and remove them too.
    Write,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
        })
    }
}

/// An address that a stage may connect to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NetGrant {
    /// Whether TCP is granted.
    pub tcp: bool,
    /// Whether UDP is granted.
    pub udp: bool,
    /// A name, or an IP address without brackets.
    pub host: String,
    /// The port; `None`: any.
    pub port: Option<u16>,
}

impl NetGrant {
    /// Whether it grants all that the other one does.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        self.host == other.host
            && self.port.is_none_or(|port| other.port == Some(port))
            && (self.tcp || !other.tcp)
            && (self.udp || !other.udp)
    }
}

impl FromStr for NetGrant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || {
            format!(
                "{text:?} is no address{HINT}addresses are \"example.org:443\", \"tcp:127.0.0.1:80\", \"udp:[::1]:53\", or \
                 \"example.org:*\" for any port"
            )
        };
        let (tcp, udp, rest) = match text.split_once(':') {
            Some(("tcp", rest)) => (true, false, rest),
            Some(("udp", rest)) => (false, true, rest),
            _ => (true, true, text),
        };
        let (host, port) = rest.rsplit_once(':').ok_or_else(refuse)?;
        let inside = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let good = match inside {
            Some(host) => host.parse::<std::net::Ipv6Addr>().is_ok(),
            None => {
                let fits = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
                host.chars().any(|c| c.is_ascii_alphanumeric()) && host.len() <= 253 && host.chars().all(fits)
            }
        };
        let port = match port {
            "*" => None,
            port if port.starts_with(['+', '0']) => return Err(refuse()),
            port => Some(port.parse().map_err(|_| refuse())?),
        };
        if !good {
            return Err(refuse());
        }
        let host = inside.unwrap_or(host).trim_end_matches('.').to_ascii_lowercase();
        Ok(Self { tcp, udp, host, port })
    }
}

impl fmt::Display for NetGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.tcp, self.udp) {
            (true, false) => f.write_str("tcp:")?,
            (false, true) => f.write_str("udp:")?,
            _ => {}
        }
        if self.host.contains(':') {
            write!(f, "[{}]:", self.host)?
        } else {
            write!(f, "{}:", self.host)?
        }
        match self.port {
            Some(port) => write!(f, "{port}"),
            None => f.write_str("*"),
        }
    }
}

impl<'de> Deserialize<'de> for NetGrant {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Serialize for NetGrant {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The clock that a stage sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClockSpec {
    /// The machine's.
    #[default]
    Real,
    /// One that starts at an instant. Sleeping takes no time and moves it on; each look at it moves it on by `step`, which is zero
    /// for a frozen clock.
    Virtual {
        /// Where it starts.
        start: SystemTime,
        /// How much each look moves it on.
        step: Duration,
    },
}

#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct ClockObject {
    /// An instant at which the clock stands: "2026-01-01T00:00:00Z".
    frozen: Option<String>,
    /// An instant at which the clock starts.
    from: Option<String>,
    /// How much each look at it moves it on.
    step: Option<Span>,
}

pub(super) fn instant(text: &str) -> Result<SystemTime, String> {
    humantime::parse_rfc3339(text)
        .map_err(|_| format!("{text:?} is no instant{HINT}instants are written \"2026-01-01T00:00:00Z\""))
}

impl TryFrom<ClockObject> for ClockSpec {
    type Error = String;

    fn try_from(clock: ClockObject) -> Result<Self, String> {
        match clock {
            ClockObject { frozen: Some(at), from: None, step: None } => {
                Ok(Self::Virtual { start: instant(&at)?, step: Duration::ZERO })
            }
            ClockObject { frozen: None, from: Some(from), step: Some(step) } => {
                Ok(Self::Virtual { start: instant(&from)?, step: step.0 })
            }
            ClockObject { .. } => {
                Err("a clock is \"real\", {\"frozen\": INSTANT} or {\"from\": INSTANT, \"step\": DURATION}".into())
            }
        }
    }
}

impl<'de> Deserialize<'de> for ClockSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match super::word_or::word_or::<ClockObject, _>(deserializer, &["real"])? {
            Ok(_) => Ok(Self::Real),
            Err(clock) => Self::try_from(clock).map_err(de::Error::custom),
        }
    }
}

impl fmt::Display for ClockSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Real => f.write_str("real"),
            Self::Virtual { start, step } => {
                let start = humantime::format_rfc3339(*start);
                if step.is_zero() {
                    write!(f, "frozen at {start}")
                } else {
                    write!(f, "from {start} in steps of {}", humantime::format_duration(*step))
                }
            }
        }
    }
}

/// The random numbers that a stage gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RandomSpec {
    /// The machine's.
    #[default]
    Real,
    /// Those of this seed: the same on every run.
    Seed(u64),
}

#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct RandomObject {
    /// The seed: the same numbers on every run.
    seed: u64,
}

impl<'de> Deserialize<'de> for RandomSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match super::word_or::word_or::<RandomObject, _>(deserializer, &["real"])? {
            Ok(_) => Ok(Self::Real),
            Err(RandomObject { seed }) => Ok(Self::Seed(seed)),
        }
    }
}

impl fmt::Display for RandomSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Real => f.write_str("real"),
            Self::Seed(seed) => write!(f, "seed {seed}"),
        }
    }
}

/// The rights that a component says it needs, in its `stagehost` section. They are not granted by that.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Requests {
    /// Directories, as the component sees them.
    pub dirs: Vec<DirRequest>,
    /// Variables of the environment.
    pub env: Vec<String>,
    /// Addresses.
    pub net: Vec<NetGrant>,
}

/// A directory that a component asks for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DirRequest {
    /// The path it wants to see it at.
    pub guest: String,
    /// What it wants to do there. Default: read.
    #[serde(default)]
    pub access: Access,
}

impl Requests {
    /// What is asked for, a line each.
    pub fn lines(&self) -> Vec<String> {
        let dirs = self.dirs.iter().map(|dir| format!("directory {} ({})", dir.guest, dir.access));
        let env = self.env.iter().map(|name| format!("variable {name}"));
        let net = self.net.iter().map(|address| format!("address {address}"));
        dirs.chain(env).chain(net).collect()
    }

    /// What is asked for and not granted, a line each.
    pub(crate) fn beyond(&self, grants: &GrantsSpec) -> Vec<String> {
        let mut left = self.clone();
        let seen = |dir: &DirGrant| dir.guest.clone().unwrap_or_else(|| dir.host.clone());
        left.dirs.retain(|asked| {
            !grants
                .dirs
                .iter()
                .flatten()
                .any(|dir| seen(dir) == asked.guest && (dir.access == Access::Write || asked.access == Access::Read))
        });
        left.env.retain(|asked| !grants.env.iter().flatten().any(|name| name == asked));
        left.net.retain(|asked| !grants.net.iter().flatten().any(|address| address.covers(asked)));
        left.lines()
    }
}

impl GrantsSpec {
    /// What is granted, a line each.
    pub(crate) fn lines(&self) -> Vec<String> {
        let dirs = self.dirs.iter().flatten().map(|dir| match &dir.guest {
            Some(guest) => format!("directory {} at {guest} ({})", dir.host, dir.access),
            None => format!("directory {} ({})", dir.host, dir.access),
        });
        let env = self.env.iter().flatten().map(|name| format!("variable {name}"));
        let net = self.net.iter().flatten().map(|address| format!("address {address}"));
        dirs.chain(env).chain(net).collect()
    }

    /// Checks what the types cannot say, for a stage of this kind.
    pub(super) fn check(&self, kind: &str, place: &Place) -> Result<(), SpecError> {
        if kind == "command" {
            let wasm =
                [("env", self.env.is_some()), ("clock", self.clock.is_some()), ("random", self.random.is_some())];
            if let Some((key, _)) = wasm.into_iter().find(|(_, set)| *set) {
                return Err(SpecError::new(place.key(key), "this cannot be granted to a command, which has it anyway")
                    .hint("a command's `sandbox` bounds directories and addresses"));
            }
        }
        let mut seen = BTreeSet::new();
        for (index, dir) in self.dirs.iter().flatten().enumerate() {
            let place = place.key("dirs").index(index);
            if dir.host.is_empty() {
                return Err(SpecError::new(place.key("host"), "the path is empty"));
            }
            if kind == "command" && dir.guest.is_some() {
                return Err(SpecError::new(place.key("guest"), "a command sees directories where they are")
                    .hint("leave `guest` out"));
            }
            let guest = dir.guest.as_ref().unwrap_or(&dir.host);
            if guest.is_empty() {
                return Err(SpecError::new(place.key("guest"), "the path is empty"));
            }
            if !seen.insert(guest) {
                return Err(SpecError::new(place, format!("another directory is granted at {guest:?}")));
            }
        }
        for (index, name) in self.env.iter().flatten().enumerate() {
            if name.is_empty() || name.contains('=') {
                let place = place.key("env").index(index);
                return Err(SpecError::new(place, "a variable's name is not empty and has no `=`"));
            }
        }
        for (index, address) in self.net.iter().flatten().enumerate() {
            if kind == "command" && (address.port.is_none() || address.udp && !address.tcp) {
                let place = place.key("net").index(index);
                return Err(SpecError::new(place, "a command's sandbox knows single TCP ports only")
                    .hint("write \"tcp:host:port\"; the host is not looked at"));
            }
        }
        Ok(())
    }
}
