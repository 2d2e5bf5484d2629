// Reads lines of JSON {name, secret, headers, body} from standard input and
// prints, for each, {name, standardwebhooks, openai}: the type of the event that
// each package unwrapped, or "refused".
const { Webhook } = require("standardwebhooks");
const { OpenAI } = require("openai");
const readline = require("node:readline");

const openai = new OpenAI({ apiKey: "none" });

async function attempt(f) {
  try {
    return (await f()).type;
  } catch {
    return "refused";
  }
}

(async () => {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const { name, secret, headers, body } = JSON.parse(line);
    console.log(
      JSON.stringify({
        name,
        standardwebhooks: await attempt(() => new Webhook(secret).verify(body, headers)),
        openai: await attempt(() => openai.webhooks.unwrap(body, headers, secret)),
      }),
    );
  }
})();
