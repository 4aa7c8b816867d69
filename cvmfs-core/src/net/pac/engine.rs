//! The JavaScript engine: set up with its bounds, run, and its failures told apart.

use std::rc::Rc;

use rquickjs::context::{EvalOptions, intrinsic};
use rquickjs::{Coerced, Context, Ctx, Error, Function, Object, Runtime, Value};

use super::error::{PacError, quote};
use super::scene::{Scene, Stop};
use super::{MAX_MEMORY, MAX_STACK, helpers};

/// The name the engine gives the script in its traces.
const FILE: &str = "proxy.pac";

/// Finds the function to call.
///
/// It is looked for by an expression rather than among the properties of the global object, where
/// functions declared by `const` or `let` do not appear.
const FIND: &str = "typeof FindProxyForURL === 'function' ? FindProxyForURL \
     : typeof FindProxyForURLEx === 'function' ? FindProxyForURLEx : null";

/// What the engine says when the memory limit is reached.
const OUT_OF_MEMORY: &str = "out of memory";
/// What the engine says when a string reaches its own limit, which is far beyond ours; strings put
/// together piecewise can get there without taking the memory.
const STRING_TOO_LONG: &str = "string too long";
/// What the engine says when the stack limit is reached.
const OUT_OF_STACK: &str = "Maximum call stack size exceeded";

/// Loads a script, calls its function and returns the text it answers.
pub(super) fn answer(
    source: &str,
    url: &str,
    host: &str,
    scene: &Rc<Scene>,
) -> Result<String, PacError> {
    let runtime = Runtime::new().map_err(|error| engine(&error))?;
    runtime.set_memory_limit(MAX_MEMORY);
    runtime.set_max_stack_size(MAX_STACK);
    let watch = Rc::clone(scene);
    runtime.set_interrupt_handler(Some(Box::new(move || watch.must_stop())));
    // Typed arrays are left out because shared memory, and with it waiting for other threads, comes
    // with them. Promises are in because functions declared `async` are built on them.
    let context = Context::builder()
        .with::<intrinsic::Date>()
        .with::<intrinsic::Eval>()
        .with::<intrinsic::RegExpCompiler>()
        .with::<intrinsic::RegExp>()
        .with::<intrinsic::Json>()
        .with::<intrinsic::Proxy>()
        .with::<intrinsic::MapSet>()
        .with::<intrinsic::Promise>()
        .build(&runtime)
        .map_err(|error| engine(&error))?;
    let outcome = context.with(|ctx| steps(&ctx, source, url, host, scene));
    // A bound of the scene comes first whatever the outcome: what the engine reports of it is only
    // that it was interrupted, and a script can catch the exception of a refused look-up.
    match scene.stopped() {
        Some(Stop::Deadline) => Err(PacError::Deadline { limit: scene.limit }),
        Some(Stop::Lookups) => Err(PacError::Lookups),
        None => outcome,
    }
}

/// The steps of an evaluation inside a context.
fn steps(
    ctx: &Ctx<'_>,
    source: &str,
    url: &str,
    host: &str,
    scene: &Rc<Scene>,
) -> Result<String, PacError> {
    helpers::define(ctx, scene).map_err(|error| failed(ctx, &error, false))?;
    let _: Value<'_> = eval(ctx, source).map_err(|error| failed(ctx, &error, true))?;
    let found: Value<'_> = eval(ctx, FIND).map_err(|error| failed(ctx, &error, false))?;
    let function: Function<'_> = found.into_function().ok_or(PacError::NoFunction)?;
    let value: Value<'_> =
        function.call((url, host)).map_err(|error| failed(ctx, &error, false))?;
    let Some(text) = value.as_string() else {
        return Err(PacError::Answer { found: value.type_name().to_owned() });
    };
    match text.to_string() {
        Ok(text) => Ok(text),
        Err(Error::Utf8(_)) => {
            Err(PacError::Answer { found: "text that is not valid Unicode".to_owned() })
        }
        Err(error) => Err(failed(ctx, &error, false)),
    }
}

/// Evaluates in the sloppy mode that scripts of the last century expect.
fn eval<'js>(ctx: &Ctx<'js>, source: &str) -> rquickjs::Result<Value<'js>> {
    let mut options = EvalOptions::default();
    options.strict = false;
    options.filename = Some(FILE.to_owned());
    ctx.eval_with_options(source, options)
}

/// Turns an error of the engine into one of ours. `loading` says that the script was being read, when
/// a syntax error is one of the script itself.
fn failed(ctx: &Ctx<'_>, error: &Error, loading: bool) -> PacError {
    match error {
        Error::Allocation => PacError::Memory,
        // An unknown error is one for which the engine left an exception behind.
        Error::Exception | Error::Unknown => thrown(&ctx.catch(), loading),
        Error::InvalidString(_) => PacError::Syntax {
            line: None,
            message: "the script contains a byte of value zero".to_owned(),
        },
        other => engine(other),
    }
}

/// Describes what was thrown.
fn thrown(value: &Value<'_>, loading: bool) -> PacError {
    let Some(object) = value.as_object().filter(|object| object.is_error()) else {
        // The engine throws null when memory does not even suffice for an error.
        return if value.is_null() {
            PacError::Memory
        } else {
            PacError::Threw { message: quote(&text_of(value)) }
        };
    };
    let name = property(object, "name");
    let message = property(object, "message");
    match (name.as_str(), message.as_str()) {
        ("InternalError", OUT_OF_MEMORY | STRING_TOO_LONG) => PacError::Memory,
        ("RangeError", OUT_OF_STACK) => PacError::Stack,
        ("SyntaxError", _) if loading => {
            PacError::Syntax { line: line_of(&property(object, "stack")), message: quote(&message) }
        }
        _ => PacError::Threw { message: quote(&format!("{name}: {message}")) },
    }
}

/// A property as text; empty if there is none or if getting it fails, which a script can arrange.
fn property(object: &Object<'_>, name: &str) -> String {
    object.get::<_, Coerced<String>>(name).map(|text| text.0).unwrap_or_default()
}

/// A value as text.
fn text_of(value: &Value<'_>) -> String {
    value.get::<Coerced<String>>().map_or_else(|_| value.type_name().to_owned(), |text| text.0)
}

/// The line in the first entry of a trace, which reads `at proxy.pac:3:14`.
fn line_of(stack: &str) -> Option<u32> {
    let (_, place) = stack.split_once(FILE)?;
    let digits = place.strip_prefix(':')?.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// A failure of the engine rather than of the script.
fn engine(error: &Error) -> PacError {
    match error {
        Error::Allocation => PacError::Memory,
        other => PacError::Engine { message: quote(&other.to_string()) },
    }
}
