// pg-boss: enq1 | enqbatch | drain | lat; settings N BATCH LC POOL ECONC RATE in the environment.
// The last line of the output is the figure: jobs a second, or p50 and p99 in ms.
import { PgBoss } from 'pg-boss';
import pg from 'pg';
const cs = process.env.DATABASE_URL; const mode = process.argv[2];
const N = +(process.env.N||20000), BATCH=+(process.env.BATCH||1000), LC=+(process.env.LC||1), POOL=+(process.env.POOL||10);
const now=()=>performance.timeOrigin+performance.now();
const pool = new pg.Pool({connectionString: cs, max: 2});
const boss = new PgBoss({connectionString: cs, max: POOL, useListenNotify: true, schedule:false, supervise: false, __test__:undefined});
boss.on('error',e=>console.error('err',e.message));
await boss.start();
const q='bench';
if(!(await boss.getQueue(q))) await boss.createQueue(q,{notify:true});
await boss.deleteAllJobs(q);
const lat=[]; let n=0; let resolve; const allDone=new Promise(r=>resolve=r);
const handler = async (jobs)=>{ for(const j of jobs){ if(mode==='lat') lat.push(now()-j.data.t); } n+=jobs.length; if(n>=N) resolve(); };
async function enqBatch(){ const t=now(); for(let i=0;i<N;i+=1000) await boss.insert(q, Array.from({length:1000},(_,k)=>({data:{t:i+k}}))); return N/((now()-t)/1e3); }
if(mode==='enq1'){ const c=+(process.env.ECONC||1); const t=now(); await Promise.all(Array.from({length:c},async()=>{for(let i=0;i<N/c;i++) await boss.send(q,{t:i});})); console.log(`${(N/((now()-t)/1e3)).toFixed(0)}`); }
else if(mode==='enqbatch'||mode==='drain'){
  console.log(`${(await enqBatch()).toFixed(0)}`);
  if(mode==='drain'){
    await pool.query('vacuum analyze');
    const t=now();
    await boss.work(q,{batchSize:BATCH, pollingIntervalSeconds:0.5, burstWhenBatchFull:true, localConcurrency:LC, notifyPollingIntervalSeconds:0.5}, handler);
    await Promise.race([allDone,new Promise(r=>setTimeout(r,90000))]); const th=now();
    for(;;){ const r=await pool.query(`select 1 from pgboss.job where name=$1 and state<'completed' limit 1`,[q]); if(!r.rowCount) break; await new Promise(r=>setTimeout(r,2)); }
    const te=now();
    console.log(`${(N/((te-t)/1e3)).toFixed(0)}`);
  }
} else if(mode==='lat'){
  await boss.work(q,{batchSize:+(process.env.LBATCH||10), pollingIntervalSeconds:0.5, burstWhenBatchFull:true, localConcurrency:LC}, handler);
  await new Promise(r=>setTimeout(r,1500));
  const rate=+(process.env.RATE||100); const t0=now();
  for(let i=0;i<N;i++){ const due=t0+i*1000/rate; const d=due-now(); if(d>0) await new Promise(r=>setTimeout(r,d)); await boss.send(q,{t:now()}); }
  await Promise.race([allDone,new Promise(r=>setTimeout(r,15000))]);
  lat.sort((a,b)=>a-b); console.log(`${lat[lat.length>>1].toFixed(2)} ${lat[Math.floor(lat.length*.99)].toFixed(2)}`);
}
await boss.stop({graceful:false}).catch(()=>{}); process.exit(0);
