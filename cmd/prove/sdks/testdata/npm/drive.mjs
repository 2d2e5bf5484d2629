// The other side of prove sdks: a line of JSON on standard input is a command for the
// SDK, and one on standard output what came of it. Commands run beside each other.
//
//	{"n":1,"do":"message","base":…,"key":…,"retries":2,"timeout":600000,"headers":{},"params":{},…}
//	{"n":1,"out":…}
//	{"n":1,"error":{"class","kinds","status","message","request","body"}}
//
// "many" does another command many times: "count" in all, "parallel" at once, with the
// number of each in place of "#" in "params".
import readline from 'node:readline';

export function serve(verbs, clientOf) {
  const clients = new Map(); // by what they are made with, as a program has one
  const run = async (c) => {
    if (c.do === 'many') return many(c, run);
    const made = JSON.stringify([c.base, c.key, c.retries, c.timeout, c.headers]);
    if (!clients.has(made)) clients.set(made, clientOf(c));
    return verbs[c.do](clients.get(made), c);
  };
  readline.createInterface({ input: process.stdin }).on('line', async (line) => {
    const c = JSON.parse(line);
    let said;
    try {
      said = { n: c.n, out: (await run(c)) ?? null };
    } catch (e) {
      said = { n: c.n, error: explain(e) };
    }
    process.stdout.write(JSON.stringify(said) + '\n');
  }).on('close', () => process.exit(0));
}

function explain(e) {
  const kinds = [];
  for (let k = e.constructor; k.name; k = Object.getPrototypeOf(k)) kinds.push(k.name);
  return { class: kinds[0], kinds, status: e.status ?? 0, message: String(e.message), request: e.requestID ?? e.request_id ?? '', body: e.error ?? null };
}

async function many(c, run) {
  const out = { answered: 0, errors: [] };
  let next = 0;
  await Promise.all(Array.from({ length: c.parallel }, async () => {
    for (let i = next++; i < c.count; i = next++) {
      try {
        await run({ ...c, do: c.each, params: JSON.parse(JSON.stringify(c.params).replaceAll('#', String(i))) });
        out.answered++;
      } catch (e) {
        out.errors.push(explain(e));
      }
    }
  }));
  return out;
}

// all collects what a list that pages by itself brings.
export async function all(list, of = (x) => x) {
  const got = [];
  for await (const x of await list) got.push(of(x));
  return got;
}
