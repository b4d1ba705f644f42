/**
 * npm `ai` with `@ai-sdk/replicate`, asked over standard input: one JSON object a line, one JSON line back.
 * `../README.md` has the rules.
 *
 * The SDK knows pictures and videos, not predictions: it creates, waits, and gives bytes or an error. So most cases are
 * beyond it, and every output is a list of files, whatever shape the model gave it.
 */
import { Console } from "node:console";
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { extname } from "node:path";
import { createInterface } from "node:readline";
import { createReplicate } from "@ai-sdk/replicate";
import { experimental_generateVideo as generateVideo, generateImage } from "ai";

globalThis.console = new Console(process.stderr, process.stderr); // the SDK's advice goes to console.info

const MEDIA_TYPES = { ".jpg": "image/jpeg", ".webp": "image/webp" };

class Unsupported extends Error {}

const mediaType = (path) => MEDIA_TYPES[extname(path)] ?? "image/png";

function describe(file) {
  const bytes = file.uint8Array;
  return {
    sha256: createHash("sha256").update(bytes).digest("hex"),
    size: bytes.length,
    kind: file.constructor.name.replace(/^_/, ""),
  };
}

/** The SDK's own download refuses loopback and private addresses; its `download` option is the documented way out. */
async function download({ url, abortSignal }) {
  const response = await fetch(url, { signal: abortSignal });
  if (!response.ok) throw new Error(`an output answered ${response.status}`);
  const mediaType = response.headers.get("content-type") ?? undefined;
  return { data: new Uint8Array(await response.arrayBuffer()), mediaType };
}

/** The call's own options, and the rest of the input as the provider's, from where it goes into the input. */
function split({ prompt, seed, ...rest }, wait) {
  if (wait?.timeout) rest.maxWaitTimeInSeconds = wait.timeout;
  return { prompt, seed, providerOptions: { replicate: rest } };
}

/** Files of one run; `image` and `mask` are bytes that the SDK turns into data URIs. */
async function generate(provider, { model, input, wait, media, n }, { image, mask } = {}) {
  const { prompt, ...rest } = split(input, wait);
  const options = { ...rest, n };
  if (media === "video") {
    const given = image ? { image, text: prompt } : prompt;
    const { videos } = await generateVideo({ model: provider.video(model), prompt: given, ...options, download });
    return videos;
  }
  // An input without a prompt is given in the long form, too: the short one must be a string.
  const isLong = image || mask || prompt === undefined;
  const given = isLong ? { images: image ? [image] : [], mask, text: prompt } : prompt;
  const { images } = await generateImage({ model: provider.image(model), prompt: given, ...options });
  return images;
}

async function run(provider, args) {
  if (args.wait?.mode === "poll" && args.media !== "video") {
    throw new Unsupported("a picture's prediction is never polled for: the create must answer with the output");
  }
  return { output: (await generate(provider, args)).map(describe) };
}

async function fileInput(provider, { field, path, how, ...args }) {
  if (how === "upload") throw new Unsupported("the SDK uploads nothing: files go as data URIs");
  if (how === "blob") throw new Unsupported("the SDK takes bytes, base64 or an address as a file");
  if (field !== "image" && field !== "mask") throw new Unsupported("files go to the inputs image and mask only");
  const bytes = await readFile(path);
  const file = how === "data_uri" ? `data:${mediaType(path)};base64,${bytes.toString("base64")}` : bytes;
  return { output: (await generate(provider, args, { [field]: file })).map(describe) };
}

/** The first run is a picture's; `media` is said of the second. */
async function outputAsInput(provider, args) {
  if (args.field !== "image") throw new Unsupported("a file goes to the input image only");
  const [first] = await generate(provider, { ...args, media: undefined });
  const second = { ...args, model: args.second_model, input: args.second_input };
  return { output: (await generate(provider, second, { image: first.uint8Array })).map(describe) };
}

async function attempt(provider, { model, version, ...args }) {
  if (!model) throw new Unsupported("a version is written after its model: owner/name:version");
  return run(provider, { ...args, model: version ? `${model}:${version}` : model });
}

const NO_PREDICTIONS = "the SDK has no predictions, only pictures and videos";
const NO_STATUS = "the SDK gives files or an error, never a status";
const NO_CALL = "the SDK has no call for it";

const without = (why, ...names) => names.map((name) => [name, why]);
const UNSUPPORTED = Object.fromEntries([
  ...without("every call of the SDK is asynchronous: see run", "run_async"),
  ...without(NO_STATUS, "create_and_poll", "create_wait", "deadline"),
  ...without(NO_PREDICTIONS, "list", "pages", "get", "cancel", "cancel_id"),
  ...without("the SDK streams neither text nor pictures of this provider", "stream"),
  ...without("the SDK asks for no webhooks and validates none", "webhook", "validate_webhook"),
  ...without(NO_CALL, "account", "models_get", "models_list", "models_search", "versions", "version_get"),
  ...without(NO_CALL, "collections", "collection_get", "hardware", "deployments_list", "deployment_get"),
  ...without(NO_CALL, "trainings_list", "files_list", "files_get", "files_create", "files_delete"),
]);

const CASES = { run, file_input: fileInput, output_as_input: outputAsInput, error: attempt };

/** After its retries the SDK throws a RetryError around the last answer. */
function explain(error) {
  const last = error.lastError ?? error;
  return {
    type: error.name ?? typeof error,
    status: last.statusCode ?? null,
    retry_after: last.responseHeaders?.["retry-after"] ?? null,
    message: last.cause?.message ? `${error.message}: ${last.cause.message}` : String(error.message),
  };
}

async function answer(line) {
  try {
    const { case: name, base_url, token, args = {} } = JSON.parse(line);
    if (Object.hasOwn(UNSUPPORTED, name)) return { unsupported: UNSUPPORTED[name] };
    if (!Object.hasOwn(CASES, name)) return { unsupported: "unknown case" };
    const provider = createReplicate({ apiToken: token, baseURL: `${base_url}/v1` });
    return { ok: true, result: await CASES[name](provider, args) };
  } catch (error) {
    return error instanceof Unsupported ? { unsupported: error.message } : { ok: false, error: explain(error) };
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  if (line.trim()) process.stdout.write(`${JSON.stringify(await answer(line))}\n`);
}
process.exit();
