-- Folder remotes.

-- Where the folder remotes of all users lie. A registration is compared with every one of them, so it must see past row level
-- security; what it learns is answered to nobody but as "no such folder".
create function remote_folders() returns table (root uuid, path text)
    language sql stable security definer set search_path = public
    as $$ select remote_root, remote_path from devices where remote_path is not null and remote_root is not null $$;
revoke execute on function remote_folders() from public;
grant execute on function remote_folders() to driftless_app;
