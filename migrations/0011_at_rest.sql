-- What a folder remote's last run noted when it found nothing to do: 64 bytes, the hash of the device's settings, the run's rules
-- and the tree's head, then the hash of what the disk said of every name. The next run takes it away when it begins; if both hold
-- still, there is nothing to do again, and neither tree nor baseline need be read. Null: nobody knows.
alter table devices add column at_rest bytea check (octet_length(at_rest) = 64);
