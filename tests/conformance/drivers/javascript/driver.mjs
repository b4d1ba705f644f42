/**
 * npm `replicate`, asked over standard input: one JSON object a line, one JSON line back. `../README.md` has the rules.
 *
 * The client is used as its README shows; only standard output is kept for answers. Each request makes a client of its
 * own, so that nothing of one case is left for the next.
 */
import { Console } from "node:console";
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { basename, extname } from "node:path";
import { createInterface } from "node:readline";
import Replicate, { validateWebhook } from "replicate";

globalThis.console = new Console(process.stderr, process.stderr);

const MAX_PAGES = 200; // a `next` that leads in a circle ends here
const DEADLINE_MS = 20_000; // what `deadline` waits at most: the client itself polls an aborted prediction for ever
const MEDIA_TYPES = { ".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp", ".txt": "text/plain" };

class Unsupported extends Error {}

/** An address that a file can be read from, where the client made no FileOutput of it. */
const isAddress = (value) => typeof value === "string" && /^(https?:|data:)/.test(value);

function describeBytes(bytes, kind) {
  return { sha256: createHash("sha256").update(bytes).digest("hex"), size: bytes.length, kind };
}

async function download(url) {
  const response = await fetch(url);
  if (!response.ok) throw Object.assign(new Error(`an output answered ${response.status}`), { response });
  return Buffer.from(await response.arrayBuffer());
}

/** The client's output in the same shape, with a description in place of each file. */
async function describe(value) {
  if (isAddress(value)) return describeBytes(await download(value), "String");
  if (typeof value?.blob === "function") {
    const blob = await value.blob();
    return describeBytes(Buffer.from(await blob.arrayBuffer()), value.constructor.name);
  }
  if (Array.isArray(value)) return Promise.all(value.map(describe));
  if (value === null || typeof value !== "object") return value;
  const entries = Object.entries(value).map(async ([name, each]) => [name, await describe(each)]);
  return Object.fromEntries(await Promise.all(entries));
}

/** `owner/name` and, where a reference has one, the version after its colon. */
function parse(reference) {
  const [fullName, version] = reference.split(":");
  const [owner, name] = fullName.split("/");
  return { owner, name, fullName, version };
}

/** What `predictions.create` takes for a model, a version or a model with its version. */
function target({ model, version }) {
  if (version) return { version };
  const found = parse(model);
  return found.version ? { version: found.version } : { model: found.fullName };
}

function create(client, args, more = {}) {
  if (args.deployment) {
    const { owner, name } = parse(args.deployment);
    return client.deployments.predictions.create(owner, name, { input: args.input, ...more });
  }
  return client.predictions.create({ ...target(args), input: args.input, ...more });
}

const fields = (prediction) => Object.keys(prediction).sort();

async function createAndPoll(client, args) {
  const first = await create(client, args);
  const final = await client.wait(first, {});
  return {
    first_status: first.status,
    final_status: final.status,
    has_logs: Boolean(final.logs),
    fields: fields(final),
    output: await describe(final.output),
  };
}

async function stream(client, { model, input }) {
  const events = [];
  let logs = "";
  for await (const { event, data } of client.stream(model, { input })) {
    if (event === "logs") logs += data;
    else events.push([event, await describe(data)]);
  }
  return { events: logs ? [...events, ["logs", logs]] : events };
}

async function pages(client) {
  const found = [];
  for await (const page of client.paginate(client.predictions.list)) {
    found.push(page.map(({ id }) => id));
    if (found.length === MAX_PAGES) throw new Error(`more than ${MAX_PAGES} pages`);
  }
  return { ids: found.flat(), pages: found.length };
}

/** `predictions.create` sends no header of the caller's; `request` is the way that the client's README gives. */
async function deadline(client, { model, input, cancel_after }) {
  const { version, ...named } = target({ model });
  const response = await client.request(version ? "/predictions" : `/models/${named.model}/predictions`, {
    method: "POST",
    headers: { "Cancel-After": String(cancel_after) },
    data: version ? { version, input } : { input },
  });
  const endsAt = Date.now() + DEADLINE_MS;
  const isOver = async ({ status }) => status === "aborted" || Date.now() > endsAt;
  const { status } = await client.wait(await response.json(), {}, isOver);
  return { status };
}

async function readGiven(path) {
  return { bytes: await readFile(path), name: basename(path), type: MEDIA_TYPES[extname(path)] ?? "" };
}

async function fileInput(client, { model, input, field, path, how }) {
  const { bytes, name, type } = await readGiven(path);
  const ways = {
    upload: () => new File([bytes], name, { type }),
    blob: () => new Blob([bytes], { type }),
    buffer: () => bytes,
    // By hand: the strategy "data-uri" of 1.4.0 posts the client object, token included, in place of the input.
    data_uri: () => `data:${type || "application/octet-stream"};base64,${bytes.toString("base64")}`,
  };
  if (!Object.hasOwn(ways, how)) throw new Unsupported(`no way to give a file by ${how}`);
  if (how === "upload") client.fileEncodingStrategy = "upload"; // without the silent retreat to a data URI
  return { output: await describe(await client.run(model, { input: { ...input, [field]: ways[how]() } })) };
}

/** By its address: a FileOutput given as it is would be sent as `{}`. */
async function outputAsInput(client, args) {
  const first = [await client.run(args.model, { input: args.input })].flat()[0];
  const address = typeof first?.url === "function" ? first.url() : first;
  const input = { ...args.second_input, [args.field]: address };
  return { output: await describe(await client.run(args.second_model, { input })) };
}

async function checkWebhook(client, { headers, body, secret }) {
  const key = secret ?? (await client.webhooks.default.secret.get()).key;
  return { valid: await validateWebhook({ headers: new Headers(headers), body }, key) };
}

/** `run` where the reference can be written for it, else a bare version as `predictions.create` takes it. */
async function attempt(client, { model, version, input }) {
  if (model) return { output: await describe(await client.run(version ? `${model}:${version}` : model, { input })) };
  return createAndPoll(client, { version, input });
}

async function createFile(client, { path }) {
  const { bytes, name, type } = await readGiven(path);
  return client.files.create(new File([bytes], name, { type }));
}

const document = (ask) => async (client, args) => ({ document: await ask(client, args) });

const CASES = {
  run: async (client, { model, input, wait }) => ({ output: await describe(await client.run(model, { input, wait })) }),
  run_async: () => {
    throw new Unsupported("every call of this client is asynchronous: see run");
  },
  create_and_poll: createAndPoll,
  create_wait: async (client, args) => {
    const { status, output } = await create(client, args, { wait: args.wait_s });
    return { status, output: await describe(output) };
  },
  stream,
  list: async (client) => {
    const ids = (await client.predictions.list()).results.map(({ id }) => id);
    return { ids: ids.slice(0, 10), count: ids.length };
  },
  pages,
  get: async (client, { id }) => {
    const prediction = await client.predictions.get(id);
    return { status: prediction.status, output: await describe(prediction.output), fields: fields(prediction) };
  },
  cancel: async (client, args) => {
    const { id } = await create(client, args);
    return { status: (await client.predictions.cancel(id)).status };
  },
  cancel_id: async (client, { id }) => ({ status: (await client.predictions.cancel(id)).status }),
  deadline,
  file_input: fileInput,
  output_as_input: outputAsInput,
  webhook: async (client, args) => {
    const { id } = await create(client, args, { webhook: args.webhook_url, webhook_events_filter: args.events });
    return { id };
  },
  validate_webhook: checkWebhook,
  error: attempt,
  account: document((client) => client.accounts.current()),
  models_get: document((client, { model }) => client.models.get(...model.split("/"))),
  models_list: document((client) => client.models.list()),
  models_search: document((client, { query }) => client.models.search(query)),
  versions: document((client, { model }) => client.models.versions.list(...model.split("/"))),
  version_get: document((client, { model, version }) => client.models.versions.get(...model.split("/"), version)),
  collections: document((client) => client.collections.list()),
  collection_get: document((client, { slug }) => client.collections.get(slug)),
  hardware: document((client) => client.hardware.list()),
  deployments_list: document((client) => client.deployments.list()),
  deployment_get: document((client, { name }) => client.deployments.get(...name.split("/"))),
  trainings_list: document((client) => client.trainings.list()),
  files_list: document((client) => client.files.list()),
  files_get: document((client, { id }) => client.files.get(id)),
  files_create: document(createFile),
  files_delete: document((client, { id }) => client.files.delete(id)),
};

function explain(error) {
  const cause = error.cause?.message ?? error.cause?.code;
  return {
    type: error.name ?? typeof error,
    status: error.response?.status ?? null,
    retry_after: error.response?.headers.get("retry-after") ?? null,
    message: cause ? `${error.message}: ${cause}` : String(error.message),
  };
}

async function answer(line) {
  try {
    const { case: name, base_url, token, args = {} } = JSON.parse(line);
    if (!Object.hasOwn(CASES, name)) return { unsupported: "unknown case" };
    const client = new Replicate({ auth: token, baseUrl: `${base_url}/v1` });
    return { ok: true, result: await CASES[name](client, args) };
  } catch (error) {
    return error instanceof Unsupported ? { unsupported: error.message } : { ok: false, error: explain(error) };
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  if (line.trim()) process.stdout.write(`${JSON.stringify(await answer(line))}\n`);
}
process.exit(); // a download that nobody reads to its end would keep the process
