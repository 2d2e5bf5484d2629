// The eyes of prove console: standard input is one JSON of what is to be looked at, and
// each line of standard output what was seen of one page.
//
//	{"chromium","base","rounds","pictures","views":[{"role","token","theme","width","pages":[{"name","path"}]}]}
//	{"role","theme","width","name","status","errors":[],"foreign":[],"axe":[],"sideways","bytes","interactive":[]}
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { chromium } from 'playwright-core';

const asked = JSON.parse(readFileSync(0, 'utf8'));
const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core'), 'utf8');
const own = new URL(asked.base).origin;

// docs tells what does not work of the description of the API: its search, a command for each
// call, and the way back.
async function docs(page) {
  const faults = [];
  const shown = () => page.locator('section.call:visible').count();
  const all = await shown();
  await page.fill('#find', 'signing-secret');
  const found = await shown();
  if (found === 0 || found > all / 4 || (await page.locator('nav li:visible').count()) !== found) {
    faults.push(`the search shows ${found} of ${all} calls`);
  }
  await page.fill('#find', '');
  if ((await shown()) !== all || all < 30) {
    faults.push(`${await shown()} of ${all} calls are shown after a search`);
  }
  const commands = await page.locator('section.call > pre:first-of-type').allTextContents();
  if (commands.length !== all || commands.some((c) => !c.startsWith('curl -s'))) {
    faults.push(`${commands.length} commands for ${all} calls`);
  }
  const back = await page.locator('main a').first().evaluate((a) => a.href);
  if (back !== asked.base + '/') {
    faults.push(`the way back leads to ${back}`);
  }
  return faults;
}

const browser = await chromium.launch({ executablePath: asked.chromium, args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'] });
for (const view of asked.views) {
  const context = await browser.newContext({ colorScheme: view.theme, viewport: { width: view.width, height: 900 } });
  const page = await context.newPage();
  await page.goto(asked.base + '/login');
  await page.fill('#token', view.token);
  await Promise.all([page.waitForURL(asked.base + '/'), page.click('button[type=submit]')]);
  for (const p of view.pages) {
    const seen = { role: view.role, theme: view.theme, width: view.width, name: p.name, errors: [], foreign: [], axe: [], interactive: [], bytes: 0 };
    const said = (m) => m.type() === 'error' && seen.errors.push(m.text());
    const threw = (e) => seen.errors.push(String(e));
    const sent = (r) => new URL(r.url()).origin !== own && seen.foreign.push(r.url());
    page.on('console', said).on('pageerror', threw).on('request', sent);
    for (let i = 0; i < asked.rounds; i++) {
      const answer = await page.goto(asked.base + p.path, { waitUntil: 'load' });
      seen.status = answer.status();
      const [ready, bytes] = await page.evaluate(() => {
        const all = [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')];
        return [performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd, all.reduce((n, e) => n + e.transferSize, 0)];
      });
      seen.interactive.push(ready);
      seen.bytes = Math.max(seen.bytes, bytes);
    }
    seen.sideways = await page.evaluate(() => document.documentElement.scrollWidth > document.documentElement.clientWidth);
    if (p.name === 'docs') {
      seen.errors.push(...await docs(page));
    }
    if (!p.foreign) {
      await page.evaluate(axe);
      const found = await page.evaluate(async () => (await globalThis.axe.run()).violations.filter((v) => v.impact === 'serious' || v.impact === 'critical'));
      seen.axe = found.map((v) => `${v.id}: ${v.nodes.length} × ${v.help}, as in ${v.nodes[0].html.slice(0, 160)}`);
    }
    if (asked.pictures && p.picture && view.role === 'admin' && view.width > 1000) {
      await page.screenshot({ path: path.join(asked.pictures, `${p.name}-${view.theme}.png`), fullPage: false });
    }
    page.off('console', said).off('pageerror', threw).off('request', sent);
    process.stdout.write(JSON.stringify(seen) + '\n');
  }
  await context.close();
}
await browser.close();
