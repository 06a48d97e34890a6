from lib import *
import threading
# fake redis: ages near u64::MAX
def fake(port,lines,info):
    def h(c):
        f=c.makefile('rb')
        def bulk(b): return b'$%d\r\n%s\r\n'%(len(b),b)
        while True:
            l=f.readline()
            if not l: return
            n=int(l[1:]); a=[]
            for _ in range(n):
                k=int(f.readline()[1:]); a.append(f.read(k+2)[:-2].decode())
            w=' '.join(a[:2]).upper()
            if w=='PING': r=b'+PONG\r\n'
            elif w.startswith('PING'): r=b'+PONG\r\n'
            elif w.startswith('INFO'): r=bulk(info.encode())
            elif w=='CLIENT LIST': r=bulk(lines.encode())
            elif w=='CLIENT ID': r=b':1\r\n'
            elif w.startswith('CLIENT'): r=b'+OK\r\n'
            elif w=='CONFIG GET': r=b'*2\r\n'+bulk(a[2].encode())+bulk(b'18446744073709551615')
            elif w=='TIME': r=b'*2\r\n'+bulk(b'18446744073709551615')+bulk(b'18446744073709551615')
            elif w.startswith('SLOWLOG'): r=b'*1\r\n*4\r\n:1\r\n:9223372036854775807\r\n:9223372036854775807\r\n*0\r\n'
            elif w.startswith('SCAN'): r=b'*2\r\n'+bulk(b'0')+b'*0\r\n'
            else: r=b'-ERR unknown\r\n'
            c.sendall(r)
    s=socket.socket(); s.setsockopt(socket.SOL_SOCKET,socket.SO_REUSEADDR,1); s.bind(('127.0.0.1',port)); s.listen(50)
    def acc():
        while True:
            c,_=s.accept(); threading.Thread(target=lambda:h(c) ,daemon=True).start()
    threading.Thread(target=acc,daemon=True).start()
M=2**64-1
lines=''.join(f'id={i} addr=10.0.0.1:{i} name=a age={max(400,M-i*10**17*9)} idle={max(399,M-i*9*10**17)} flags=N omem={M} obl={M} cmd=get\n' for i in range(2,22))
info='redis_version:7.0.0\r\nconnected_clients:20\r\nmaxclients:20\r\nuptime_in_seconds:%d\r\nrejected_connections:%d\r\ntotal_connections_received:%d\r\nused_memory:%d\r\nmaxmemory:%d\r\nrole:master\r\nslave0:ip=x,port=1,state=online,offset=0,lag=%d\r\nmaster_repl_offset:%d\r\nrepl_backlog_size:%d\r\nconnected_slaves:1\r\nloading:1\r\nloading_eta_seconds:%d\r\nloading_loaded_perc:1e300\r\nsync_full:%d\r\nrepl_backlog_active:1\r\n'%((M,)*10)
fake(7920,lines,info)
r=rg('doctor','--sample','100ms','redis://127.0.0.1:7920')
r=rg('watch','--once','--interval','100ms','redis://127.0.0.1:7920')
r=rg('plan','redis://127.0.0.1:7920','--instances','3','--pool-size','3')
