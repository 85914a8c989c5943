// Load every folder with transformers.js in Node.js: node with_transformers_js.mjs FOLDER PACKAGES
import fs from "node:fs";
import path from "node:path";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [folder, packages] = process.argv.slice(2);
const require = createRequire(path.join(path.resolve(packages), "package.json"));
const root = path.join(path.resolve(packages), "node_modules", "@huggingface", "transformers");
const js = await import(pathToFileURL(path.join(root, "dist", "transformers.node.mjs")));
const { version } = JSON.parse(fs.readFileSync(path.join(root, "package.json")));
js.env.localModelPath = path.resolve(folder) + path.sep;
js.env.allowRemoteModels = false;

const CLASSES = {
  "image-classification": "AutoModelForImageClassification",
  "text-classification": "AutoModelForSequenceClassification",
  "token-classification": "AutoModelForTokenClassification",
  "masked-lm": "AutoModelForMaskedLM",
  features: "AutoModel",
  "causal-lm": "AutoModelForCausalLM",
  "seq2seq-lm": "AutoModelForSeq2SeqLM",
};
// Allowed differences above this are of files with less precision.
const FULL = 0.002;
const DTYPES = { "": "fp32", _quantized: "q8", _uint8: "uint8", _q4: "q4", _fp16: "fp16" };

function tensors(inputs) {
  const made = {};
  for (const [name, { shape, values }] of Object.entries(inputs)) {
    if (name.startsWith("decoder_")) continue;
    const floats = name.startsWith("pixel") || name.includes("features");
    made[name] = floats
      ? new js.Tensor("float32", Float32Array.from(values), shape)
      : new js.Tensor("int64", BigInt64Array.from(values.map(BigInt)), shape);
  }
  return made;
}

// Its Whisper transcribes one recording at a time.
function batches(inputs) {
  const sounds = inputs.input_features;
  if (!sounds) return [inputs];
  return [...Array(sounds.dims[0]).keys()].map((i) => ({ input_features: sounds.slice([i, i + 1]) }));
}

async function ran(name, expected, kind, dtype, allowed) {
  const model = await js[kind].from_pretrained(name, { dtype, device: "cpu" });
  const inputs = tensors(expected.inputs);
  if (expected.generated) {
    const count = expected.new;
    const given = [];
    for (const batch of batches(inputs)) {
      const tokens = await model.generate({ ...batch, max_new_tokens: count, min_new_tokens: count, do_sample: false });
      given.push(...tokens.tolist().map((row) => row.map(Number).slice(-count)));
    }
    const wanted = expected.generated.map((row) => row.slice(-count));
    const pairs = wanted.flatMap((row, i) => row.map((token, j) => token === given[i][j]));
    const share = pairs.filter(Boolean).length / pairs.length;
    return share === 1 || allowed > FULL ? `${(100 * share).toFixed(0)} %` : `**${(100 * share).toFixed(0)} %**`;
  }
  const output = await model(inputs);
  const [key, { values }] = Object.entries(expected.outputs)[0];
  const given = Array.from(output[key].data);
  if (given.length !== values.length) return `${given.length} values for ${values.length}`;
  let largest = 0, top = 0, squares = 0, size = 0;
  values.forEach((value, i) => {
    largest = Math.max(largest, Math.abs(value - given[i]));
    top = Math.max(top, Math.abs(value));
    squares += (value - given[i]) ** 2;
    size += value ** 2;
  });
  const near = Math.min(largest / top, Math.sqrt(squares / size)) <= allowed;
  const shown = (largest / top).toExponential(0).replace(/e([-+])(\d)$/, "e$10$2");
  return near ? shown : `**${shown}**`;
}

const rows = [];
for (const name of fs.readdirSync(folder).sort()) {
  const file = path.join(folder, name, "expected.json");
  if (!fs.existsSync(file)) continue;
  const expected = JSON.parse(fs.readFileSync(file));
  const kind = "input_features" in expected.inputs ? "AutoModelForSpeechSeq2Seq" : CLASSES[expected.task];
  for (const [suffix, allowed] of Object.entries(expected.files)) {
    let printed;
    try {
      printed = await ran(name, expected, kind, DTYPES[suffix], allowed);
    } catch (error) {
      printed = `FAILS: ${String(error).split("\n")[0].replaceAll(path.resolve(folder), "").slice(0, 200)}`;
    }
    rows.push({ model: name, task: expected.task, call: `${kind}.from_pretrained(folder, {dtype})`, suffix, printed });
  }
}
console.log(JSON.stringify({ tool: `transformers.js ${version}`, rows }));
