// Takes the compiler away from proxy scripts; see the comment on PRELUDE in engine.rs.
(function () {
    "use strict";
    function refuse() {
        throw new EvalError("proxy scripts cannot compile text to code");
    }
    for (const made of [function () {}, function* () {}, async function () {}, async function* () {}]) {
        const prototype = Object.getPrototypeOf(made);
        const replacement = function () { refuse(); };
        // Shared with the original, so that `instanceof` keeps working.
        Object.defineProperty(replacement, "prototype", { value: prototype });
        Object.defineProperty(prototype, "constructor", { value: replacement });
    }
    Object.defineProperty(globalThis, "Function", { value: Function.prototype.constructor });
    Object.defineProperty(globalThis, "eval", { value: function () { refuse(); } });
})();
