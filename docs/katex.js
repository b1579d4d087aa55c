// [[TeX, display?], …] on stdin -> [HTML, …] on stdout. A formula that KaTeX refuses ends it.
const katex = require("katex");
const formulas = JSON.parse(require("fs").readFileSync(0, "utf8"));
const render = ([tex, displayMode]) => {
  try {
    return katex.renderToString(tex, { displayMode, output: "html", throwOnError: true, strict: "error" });
  } catch (error) {
    console.error(`${error.message}\n  in: ${tex}`);
    process.exit(1);
  }
};
process.stdout.write(JSON.stringify(formulas.map(render)));
