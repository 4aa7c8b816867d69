//! The functions a script finds defined: how they are called, and which of ours answers.

use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;

use rquickjs::function::Rest;
use rquickjs::{Coerced, Ctx, Exception, Function, IntoJs, Value};

use super::scene::{Scene, Stop};
use super::{MAX_ARGUMENTS, MAX_TEXT, address, host};

/// The version `getClientVersion` reports: that of the Microsoft extensions.
const CLIENT_VERSION: &str = "1.0";

/// What a function gives back to the script.
enum Reply {
    Null,
    Bool(bool),
    Number(i32),
    Text(String),
}

impl<'js> IntoJs<'js> for Reply {
    fn into_js(self, ctx: &Ctx<'js>) -> rquickjs::Result<Value<'js>> {
        match self {
            Self::Null => Ok(Value::new_null(ctx.clone())),
            Self::Bool(value) => Ok(Value::new_bool(ctx.clone(), value)),
            Self::Number(value) => Ok(Value::new_int(ctx.clone(), value)),
            Self::Text(value) => value.into_js(ctx),
        }
    }
}

/// One function: every argument reaches it as text, the way JavaScript itself would write it.
struct Helper {
    name: &'static str,
    /// How many arguments it cannot do without; it is called with at least so many.
    needs: usize,
    call: fn(&Scene, &[String]) -> Result<Reply, Stop>,
}

const fn helper(
    name: &'static str,
    needs: usize,
    call: fn(&Scene, &[String]) -> Result<Reply, Stop>,
) -> Helper {
    Helper { name, needs, call }
}

/// All functions except `alert`, which takes anything.
///
/// Indexing in these is safe because `needs` was checked before.
const HELPERS: &[Helper] = &[
    helper("isPlainHostName", 1, |_, a| Ok(Reply::Bool(host::is_plain(&a[0])))),
    helper("dnsDomainIs", 2, |_, a| Ok(Reply::Bool(host::domain_is(&a[0], &a[1])))),
    helper("localHostOrDomainIs", 2, |_, a| {
        Ok(Reply::Bool(host::local_or_domain_is(&a[0], &a[1])))
    }),
    helper("isResolvable", 1, |s, a| Ok(Reply::Bool(s.ipv4(&a[0])?.is_some()))),
    helper("isInNet", 3, |s, a| {
        let address = s.ipv4(&a[0])?;
        Ok(Reply::Bool(address.is_some_and(|address| address::in_net(address, &a[1], &a[2]))))
    }),
    helper("dnsResolve", 1, |s, a| {
        Ok(s.ipv4(&a[0])?.map_or(Reply::Null, |address| Reply::Text(address.to_string())))
    }),
    helper("convert_addr", 1, |_, a| Ok(Reply::Number(address::number(&a[0])))),
    helper("myIpAddress", 0, |s, _| {
        // Scripts compute with the result unchecked, therefore there always is one.
        let own = s.own().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        Ok(Reply::Text(own.to_string()))
    }),
    helper("dnsDomainLevels", 1, |_, a| {
        Ok(Reply::Number(i32::try_from(host::levels(&a[0])).unwrap_or(i32::MAX)))
    }),
    helper("shExpMatch", 2, |_, a| Ok(Reply::Bool(host::shell_match(&a[0], &a[1])))),
    helper("weekdayRange", 1, |s, a| Ok(Reply::Bool(s.clock.weekday_range(a)))),
    helper("dateRange", 1, |s, a| Ok(Reply::Bool(s.clock.date_range(a)))),
    helper("timeRange", 1, |s, a| Ok(Reply::Bool(s.clock.time_range(a)))),
    helper("isResolvableEx", 1, |s, a| Ok(Reply::Bool(!s.addresses(&a[0])?.is_empty()))),
    helper("isInNetEx", 2, |s, a| {
        let addresses = s.addresses(&a[0])?;
        let inside = addresses.iter().any(|address| address::in_prefixes(*address, &a[1]));
        Ok(Reply::Bool(inside))
    }),
    helper("dnsResolveEx", 1, |s, a| Ok(Reply::Text(address::joined(&s.addresses(&a[0])?)))),
    helper("myIpAddressEx", 0, |s, _| {
        Ok(Reply::Text(s.own().map_or_else(String::new, |own| own.to_string())))
    }),
    helper("sortIpAddressList", 1, |_, a| {
        Ok(Reply::Text(address::sorted(&a[0]).unwrap_or_default()))
    }),
    helper("getClientVersion", 0, |_, _| Ok(Reply::Text(CLIENT_VERSION.to_owned()))),
];

/// Defines the functions in a context.
pub(super) fn define(ctx: &Ctx<'_>, scene: &Rc<Scene>) -> rquickjs::Result<()> {
    let globals = ctx.globals();
    for helper in HELPERS {
        let scene = Rc::clone(scene);
        let function = Function::new(ctx.clone(), caller(scene, helper))?.with_name(helper.name)?;
        globals.set(helper.name, function)?;
    }
    // Whatever a script wants to tell its user has no reader here.
    let alert = Function::new(ctx.clone(), |_: Rest<Value<'_>>| ())?.with_name("alert")?;
    globals.set("alert", alert)
}

/// A closure the engine can call.
///
/// It is made here rather than in place because only a signature ties the lifetimes of a closure's
/// arguments together.
fn caller<'js>(
    scene: Rc<Scene>,
    helper: &'static Helper,
) -> impl Fn(Ctx<'js>, Rest<Value<'js>>) -> rquickjs::Result<Reply> + 'static {
    move |ctx, args| {
        let args = texts(&ctx, helper, args.0)?;
        (helper.call)(&scene, &args).map_err(|stop| {
            let message = match stop {
                Stop::Deadline => "the time for the proxy script is up",
                Stop::Lookups => "the proxy script looked up too many names",
            };
            Exception::throw_internal(&ctx, message)
        })
    }
}

/// The arguments of a call as text.
fn texts<'js>(
    ctx: &Ctx<'js>,
    helper: &Helper,
    args: Vec<Value<'js>>,
) -> rquickjs::Result<Vec<String>> {
    let name = helper.name;
    if args.len() < helper.needs {
        let message = format!("{name} needs {} arguments", helper.needs);
        return Err(Exception::throw_type(ctx, &message));
    }
    args.into_iter()
        .take(MAX_ARGUMENTS)
        .map(|arg| {
            let Coerced(text) = arg.get::<Coerced<String>>()?;
            if text.len() > MAX_TEXT {
                let message = format!("{name} takes at most {MAX_TEXT} bytes of text");
                return Err(Exception::throw_range(ctx, &message));
            }
            Ok(text)
        })
        .collect()
}
