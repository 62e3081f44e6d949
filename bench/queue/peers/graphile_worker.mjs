// graphile-worker: enq1 | enqbatch | drain | lat; settings N CONC SIZE POOL DELAY ECONC RATE in the environment.
// The last line of the output is the figure: jobs a second, or p50 and p99 in ms.
import { run, makeWorkerUtils } from 'graphile-worker';
import pg from 'pg';
const cs = process.env.DATABASE_URL; const mode = process.argv[2];
const N = +(process.env.N||20000), CONC = +(process.env.CONC||24), SIZE=+(process.env.SIZE||500), POOL=+(process.env.POOL||10);
const DELAY = process.env.DELAY===undefined?0:+process.env.DELAY;
const { Logger } = await import('graphile-worker');
const logger = new Logger(()=>()=>{});
const pool = new pg.Pool({connectionString: cs, max: POOL}); pool.on('error',()=>{});
const utils = await makeWorkerUtils({ pgPool: pool, logger });
await utils.migrate();
await pool.query("truncate graphile_worker._private_jobs, graphile_worker._private_job_queues");
const now=()=>performance.timeOrigin+performance.now();
let n=0; const lat=[]; let resolve; const allDone=new Promise(r=>resolve=r);
const taskList = { noop: (p)=>{ if(mode==='lat') lat.push(now()-p.t); if(++n===N) resolve(); } };
const preset = { worker: { concurrentJobs: CONC, maxPoolSize: POOL, pollInterval: 2000, preparedStatements:true, ...(SIZE>0?{localQueue:{size:SIZE}}:{}), completeJobBatchDelay: DELAY, failJobBatchDelay: DELAY, ...(SIZE>0?{}:{}) } };
async function enqBatch(){ const t=now(); for(let i=0;i<N;i+=1000){ await utils.addJobs(Array.from({length:1000},(_,k)=>({identifier:'noop',payload:{t:i+k}}))); } return N/((now()-t)/1e3); }
if(mode==='enq1'){ const c=+(process.env.ECONC||1); const t=now(); await Promise.all(Array.from({length:c},async()=>{for(let i=0;i<N/c;i++) await utils.addJob('noop',{t:i});})); console.log(`${(N/((now()-t)/1e3)).toFixed(0)}`); }
else if(mode==='enqbatch'||mode==='drain'){
  console.log(`${(await enqBatch()).toFixed(0)}`);
  if(mode==='drain'){
    await pool.query('analyze graphile_worker._private_jobs');
    const t=now();
    const r = await run({ pgPool: pool, taskList, preset, logger, noHandleSignals:true, concurrency: CONC });
    await allDone; const th=now();
    while((await pool.query('select 1 from graphile_worker._private_jobs limit 1')).rowCount) await new Promise(r=>setTimeout(r,2));
    const te=now();
    console.log(`${(N/((te-t)/1e3)).toFixed(0)}`);
    await r.stop();
  }
} else if(mode==='lat'){
  const r = await run({ pgPool: pool, taskList, preset, logger, noHandleSignals:true, concurrency: CONC });
  await new Promise(r=>setTimeout(r,1000));
  const rate=+(process.env.RATE||100); const t0=now();
  for(let i=0;i<N;i++){ const due=t0+i*1000/rate; const d=due-now(); if(d>0) await new Promise(r=>setTimeout(r,d)); await utils.addJob('noop',{t:now()}); }
  await Promise.race([allDone,new Promise(r=>setTimeout(r,10000))]);
  lat.sort((a,b)=>a-b); console.log(`${lat[lat.length>>1].toFixed(2)} ${lat[Math.floor(lat.length*.99)].toFixed(2)}`);
  await r.stop();
}
process.exit(0);
