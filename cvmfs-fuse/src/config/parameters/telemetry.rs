//! Parameters of the lines for InfluxDB (spec/config.md section 3.5).

use std::time::Duration;

use super::{Parameter, seconds, switch};

/// As upstream documents it. Upstream 2.12 sends nothing without an explicit rate; a switch that is
/// on should be on.
const RATE: Duration = Duration::from_secs(300);
/// As upstream: nobody is flooded.
pub const SHORTEST_RATE: Duration = Duration::from_secs(5);

/// Where figures are sent, and how often.
#[derive(Debug, Clone)]
pub struct Telemetry {
    /// They are sent at all.
    pub send: bool,
    /// Time between two datagrams.
    pub rate: Duration,
    /// Name or address of the receiver.
    pub host: Option<String>,
    /// Its UDP port.
    pub port: Option<u16>,
    /// Name of the measurement, before `_absolute` and `_delta`.
    pub metric: Option<String>,
    /// Tags of both, `NAME=VALUE` with `,` between them, as InfluxDB reads them.
    pub tags: String,
    /// Fields of the absolute values, likewise.
    pub fields: String,
}

impl Default for Telemetry {
    fn default() -> Self {
        let (tags, fields) = (String::new(), String::new());
        Self { send: false, rate: RATE, host: None, port: None, metric: None, tags, fields }
    }
}

/// Takes what is to stand in a line as it is: it must not end the line.
fn list(text: &str) -> Option<String> {
    let text = text.trim().trim_matches(',');
    let is_list = !text.is_empty() && text.contains('=') && !text.contains(char::is_control);
    is_list.then(|| text.to_owned())
}

/// Takes one word of a line.
fn word(text: &str) -> Option<String> {
    let ends = |c: char| c.is_control() || c.is_whitespace() || ",=".contains(c);
    (!text.is_empty() && !text.contains(ends)).then(|| text.to_owned())
}

/// Their part of the table.
pub(super) const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "CVMFS_TELEMETRY_SEND",
        form: "yes|no",
        help: "send figures to InfluxDB as UDP datagrams; needs host, port and name [no]",
        set: |p, v| switch(v).map(|v| p.telemetry.send = v),
    },
    Parameter {
        name: "CVMFS_TELEMETRY_RATE",
        form: "SECONDS",
        help: "time between two datagrams, 5 at least [300]",
        set: |p, v| seconds(v).map(|v| p.telemetry.rate = v.max(SHORTEST_RATE)),
    },
    Parameter {
        name: "CVMFS_INFLUX_HOST",
        form: "HOST",
        help: "their receiver: a name or an address",
        set: |p, v| word(v).map(|v| p.telemetry.host = Some(v)),
    },
    Parameter {
        name: "CVMFS_INFLUX_PORT",
        form: "PORT",
        help: "its UDP port",
        set: |p, v| {
            let port: u16 = v.parse().ok().filter(|port| *port > 0)?;
            p.telemetry.port = Some(port);
            Some(())
        },
    },
    Parameter {
        name: "CVMFS_INFLUX_METRIC_NAME",
        form: "NAME",
        help: "name of the measurement, before _absolute and _delta",
        set: |p, v| word(v).map(|v| p.telemetry.metric = Some(v)),
    },
    Parameter {
        name: "CVMFS_INFLUX_EXTRA_TAGS",
        form: "NAME=VALUE[,...]",
        help: "tags besides the repository",
        set: |p, v| list(v).map(|v| p.telemetry.tags = v),
    },
    Parameter {
        name: "CVMFS_INFLUX_EXTRA_FIELDS",
        form: "NAME=VALUE[,...]",
        help: "fields besides the figures, of the absolute values",
        set: |p, v| list(v).map(|v| p.telemetry.fields = v),
    },
];

#[cfg(test)]
mod tests {
    use super::super::Parameters;
    use super::*;

    #[test]
    fn what_would_break_a_line_is_refused() {
        for bad in [
            "CVMFS_INFLUX_METRIC_NAME=a b",
            "CVMFS_INFLUX_METRIC_NAME=a,b=c",
            "CVMFS_INFLUX_EXTRA_TAGS=a=b\nother x=1",
            "CVMFS_INFLUX_EXTRA_TAGS=nothing",
            "CVMFS_INFLUX_PORT=0",
            "CVMFS_TELEMETRY_RATE=often",
        ] {
            assert!(Parameters::parse([bad]).is_err(), "{bad}");
        }
        let texts = ["CVMFS_TELEMETRY_RATE=1", "CVMFS_INFLUX_EXTRA_TAGS=,site=x,rack=y,"];
        let parsed = Parameters::parse(texts).unwrap().telemetry;
        assert_eq!((parsed.rate, parsed.tags.as_str()), (SHORTEST_RATE, "site=x,rack=y"));
        assert_eq!(Parameters::parse([]).unwrap().telemetry.rate, RATE);
    }
}
