// pg-boss: N running jobs in a process that is killed. The last line is the seconds from the kill until another process has finished all.
import { fork } from 'node:child_process';
import { PgBoss } from 'pg-boss';
const N = +(process.env.N || 200);
const queue = 'crash';
const victim = process.argv[2] === 'victim';
const options = { heartbeatSeconds: 10, retryLimit: 5, retryDelay: 0 };
const boss = new PgBoss({ connectionString: process.env.DATABASE_URL, max: 10, schedule: false, supervise: !victim, superviseIntervalSeconds: 1, monitorIntervalSeconds: 1 });
boss.on('error', (e) => console.error(e.message));
await boss.start();
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
if (victim) {
  await boss.work(queue, { batchSize: N, pollingIntervalSeconds: 0.5 }, async () => {
    process.send('running');
    await wait(600_000);
  });
} else {
  if (await boss.getQueue(queue)) await boss.deleteQueue(queue);
  await boss.createQueue(queue, options);
  await boss.insert(queue, Array.from({ length: N }, () => ({ data: {}, ...options })));
  const child = fork(process.argv[1], ['victim'], { env: process.env });
  await new Promise((done) => child.once('message', done));
  let finished = 0;
  await boss.work(queue, { batchSize: N, pollingIntervalSeconds: 0.5 }, async (jobs) => { finished += jobs.length; });
  await wait(12_000);
  child.kill('SIGKILL');
  const killed = performance.now();
  while (finished < N && performance.now() - killed < 300_000) await wait(20);
  console.log(((performance.now() - killed) / 1000).toFixed(2));
}
if (!victim) { await boss.stop({ graceful: false }).catch(() => {}); process.exit(0); }
